/** Elements are made with text, never with markup: what is shown was written by runners, applications and visitors. */
export const byId = (id) => document.getElementById(id);

/** `el('td.n', { title }, 'text', child)`; `false` and `undefined` among the children are left out. */
export const el = (name, attributes = {}, ...children) => {
  const [tag, ...classes] = name.split('.');
  const element = document.createElement(tag);
  if (classes.length > 0) element.className = classes.join(' ');
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child !== false && child !== undefined));
  return element;
};

/** Asks; resolves with whether the answer was yes. */
export const confirmed = (title, text, action) =>
  new Promise((resolve) => {
    const dialog = byId('confirm');
    dialog.querySelector('h2').textContent = title;
    dialog.querySelector('p').textContent = text;
    dialog.querySelector('.danger').textContent = action;
    dialog.returnValue = 'no';
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
    dialog.showModal();
  });
