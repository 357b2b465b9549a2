/** What every page has that a person gets from the gateway itself. Pure. */
import { createHash } from 'node:crypto';

/** Safe in text and in quoted attributes. */
export const escapeHtml = (text: string): string =>
  text.replace(/[&<>"'`]/g, (character) => `&#${character.charCodeAt(0)};`);

/** A style or script that stands in the page, as its `Content-Security-Policy` names it (CSP Level 3, section 2.3.1). */
export const policyHash = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;

export interface HtmlDocument {
  /** Text; escaped here. */
  readonly title: string;
  /** A `data:` URL. */
  readonly icon?: string;
  readonly style: string;
  /** Of `body`, as HTML, with a space in front. */
  readonly attributes?: string;
  /** As HTML. */
  readonly body: string;
}

/** A whole document, for phones too and for no search engine. */
export const renderDocument = ({ title, icon, style, attributes = '', body }: HtmlDocument): string => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>${escapeHtml(title)}</title>
${icon === undefined ? '' : `<link rel="icon" href="${icon}">\n`}<style>${style}</style>
</head>
<body${attributes}>
${body}
</body>
</html>
`;
