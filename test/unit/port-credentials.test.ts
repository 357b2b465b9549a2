import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  isPortAuthorization,
  offersPortProtocol,
  portTokens,
  protocolsForUpstream,
  sessionCookies,
} from '../../gateway/src/access/credentials.ts';

const jwt = (typ: unknown, rest = '.e30.c2ln'): string =>
  `${Buffer.from(JSON.stringify({ alg: 'EdDSA', kid: 'k', typ })).toString('base64url')}${rest}`;
const OURS = jwt('gitpod-port+jwt');
const THEIRS = jwt('JWT');

test('an Authorization is ours by the type of its token alone', () => {
  const ours = [
    `Bearer ${OURS}`,
    `bearer   ${OURS}  `,
    `Bearer ${jwt('gitpod-port+jwt', '.broken.')}`,
    `Bearer ${jwt('gitpod-port+jwt', '..')}`,
    // Not as it should be sent, and still nothing for the application.
    `Basic ${OURS}`,
    OURS,
    `Bearer ${THEIRS}, Bearer ${OURS}`,
    `Bearer ${OURS}.more`,
  ];
  for (const value of ours) assert.equal(isPortAuthorization(value), true, value);
  const theirs = [
    '',
    'Bearer',
    `Bearer ${THEIRS}`,
    `Bearer ${jwt('gitpod-logs+jwt')}`,
    `Bearer ${jwt(undefined)}`,
    `Bearer ${jwt(['gitpod-port+jwt'])}`,
    'Bearer a.b.c',
    'Bearer gitpod-port+jwt',
    'Basic dXNlcjpwYXNzd29yZA==',
    'Digest username="a.b.c", realm="x"',
    'AWS4-HMAC-SHA256 Credential=AKIA/20130524/us-east-1/s3/aws4_request, Signature=f.e.d',
  ];
  for (const value of theirs) assert.equal(isPortAuthorization(value), false, value);
});

test('tokens are found where they may be, and nowhere else', () => {
  const all = [
    ['Authorization', `Bearer ${OURS}`],
    ['X-Gitpod-Port-Token', ` ${OURS} `],
    ['X-GITPOD-PORT-TOKEN', 'anything'],
  ].flat();
  assert.deepEqual(portTokens(all, false), [OURS, OURS, 'anything']);
  assert.deepEqual(
    portTokens(['Authorization', `Bearer ${THEIRS}`, 'Cookie', `a=${OURS}`, 'X-Other', OURS], false),
    [],
  );
  const protocols = ['Sec-WebSocket-Protocol', `gitpod.port.v1, gitpod.token.${OURS}`];
  assert.deepEqual(portTokens(protocols, true), [OURS]);
  assert.deepEqual(portTokens(protocols, false), [], 'a request that upgrades nothing has no protocols');
  assert.deepEqual(
    portTokens(['Sec-WebSocket-Protocol', 'graphql-ws', 'Sec-WebSocket-Protocol', 'gitpod.token.'], true),
    [''],
  );
  assert.deepEqual(portTokens(['Authorization', `Basic ${OURS}`], false), [''], 'ours, and of no use');
});

test('the application is offered its own protocols', () => {
  assert.equal(protocolsForUpstream('chat ,  superchat'), 'chat ,  superchat');
  assert.equal(protocolsForUpstream(`gitpod.port.v1, chat,gitpod.token.${OURS},superchat`), 'chat, superchat');
  assert.equal(protocolsForUpstream(`gitpod.port.v1, gitpod.token.${OURS}`), undefined);
  assert.equal(protocolsForUpstream('gitpod.port.v2'), 'gitpod.port.v2');
  assert.equal(
    offersPortProtocol(['sec-websocket-protocol', 'chat', 'Sec-WebSocket-Protocol', 'gitpod.port.v1']),
    true,
  );
  assert.equal(offersPortProtocol(['Sec-WebSocket-Protocol', `gitpod.token.${OURS}`]), false);
});

test('every cookie with the exact name of the session counts', () => {
  const lines = ['Cookie', 'a=b; __Host-gitpod_port_auth=one ', 'cookie', '__Host-gitpod_port_auth=two=2; x'];
  assert.deepEqual(sessionCookies(lines), ['one', 'two=2']);
  assert.deepEqual(
    sessionCookies(['Cookie', '__host-gitpod_port_auth=x; gitpod_port_auth=y; a=__Host-gitpod_port_auth']),
    [],
  );
});
