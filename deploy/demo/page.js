const byId = (id) => document.getElementById(id);
const text = (id, value) => (byId(id).textContent = value);

/* The first station: what the browser itself speaks. */
const [navigation] = performance.getEntriesByType('navigation');
const PROTOCOLS = { h2: 'HTTP/2 over TLS', h3: 'HTTP/3', 'http/1.1': 'HTTP/1.1' };
text('browser-protocol', PROTOCOLS[navigation?.nextHopProtocol] ?? (location.protocol === 'https:' ? 'HTTPS' : 'HTTP'));
text('self', location.href);

/* WebSocket echo: two probes a second, each with a number of its own. */
const PROBE_INTERVAL_MS = 500;
const SHOWN_PROBES = 60;
const REOPEN_AFTER_MS = 2_000;
const times = [];
let echoes = 0;

const format = (ms) => (ms < 10 ? ms.toFixed(1) : String(Math.round(ms)));

const drawSpark = () => {
  const top = Math.max(...times, 1) * 1.15;
  const step = 300 / (SHOWN_PROBES - 1);
  const points = times.map((ms, index) => {
    const x = 300 - (times.length - 1 - index) * step;
    return `${x.toFixed(1)},${(54 - (ms / top) * 50).toFixed(1)}`;
  });
  const [line, area] = [byId('spark').querySelector('.line'), byId('spark').querySelector('.area')];
  if (points.length < 2) return;
  line.setAttribute('d', `M${points.join('L')}`);
  area.setAttribute('d', `M${points.join('L')}L300,56L${300 - (times.length - 1) * step},56Z`);
};

const showTime = (ms) => {
  times.push(ms);
  if (times.length > SHOWN_PROBES) times.shift();
  echoes += 1;
  const sorted = times.toSorted((a, b) => a - b);
  text('rtt', format(ms));
  text('rtt-median', `${format(sorted[Math.floor(sorted.length / 2)])} ms`);
  text('rtt-lowest', `${format(sorted[0])} ms`);
  text('rtt-count', String(echoes));
  drawSpark();
};

let socket;
const openSocket = () => {
  const sent = new Map();
  let next = 0;
  let prober;
  socket = new WebSocket(`${location.protocol.replace('http', 'ws')}//${location.host}/echo`);
  const probe = () => {
    sent.set(++next, performance.now());
    socket.send(JSON.stringify({ probe: next }));
  };
  socket.onopen = () => {
    byId('lamp').classList.add('on');
    probe();
    prober = setInterval(probe, PROBE_INTERVAL_MS);
  };
  socket.onmessage = ({ data }) => {
    const arrived = performance.now();
    const message = JSON.parse(data);
    if (message.probe !== undefined) {
      showTime(arrived - sent.get(message.probe));
      sent.delete(message.probe);
    } else {
      text('say-answer', `“${message.say}” came back after ${format(arrived - message.at)} ms.`);
    }
  };
  socket.onclose = () => {
    byId('lamp').classList.remove('on');
    clearInterval(prober);
    text('say-answer', 'The socket was cut. It is opened again.');
    setTimeout(openSocket, REOPEN_AFTER_MS);
  };
};
openSocket();

byId('say').addEventListener('submit', (event) => {
  event.preventDefault();
  const say = byId('say-text').value.trim();
  if (!say || socket.readyState !== WebSocket.OPEN) return;
  socket.send(JSON.stringify({ say, at: performance.now() }));
  byId('say-text').value = '';
});

/* Server-sent events. The browser reopens the stream by itself and names the last event it saw. */
const SHOWN_TICKS = 5;
let lastTick;
new EventSource('/events').onmessage = ({ data }) => {
  const arrived = performance.now();
  const { count, time } = JSON.parse(data);
  text('tick', String(count));
  const item = document.createElement('li');
  const gap = lastTick === undefined ? 'first' : `+${((arrived - lastTick) / 1_000).toFixed(3)} s`;
  lastTick = arrived;
  for (const part of [time.slice(11, 23), gap]) {
    item.append(Object.assign(document.createElement('span'), { textContent: part }));
  }
  byId('ticks').prepend(item);
  while (byId('ticks').children.length > SHOWN_TICKS) byId('ticks').lastChild.remove();
};

/* Upload: XMLHttpRequest, because only it tells the progress of a request body. */
/** Up to here the browser hashes the file too and compares; it can only do so with all of it in memory. */
const MAX_COMPARED_BYTES = 256 * 2 ** 20;
const RANDOM_BYTES = 64 * 2 ** 20;
const hex = (buffer) => [...new Uint8Array(buffer)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
const size = (bytes) => (bytes < 2 ** 20 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`);

const post = (blob, onProgress) =>
  new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.upload.onprogress = ({ loaded, total }) => onProgress(loaded, total);
    request.onload = () =>
      request.status === 200
        ? resolve(JSON.parse(request.responseText))
        : reject(new Error(`the answer was ${request.status}`));
    request.onerror = () => reject(new Error('the connection was cut'));
    request.open('POST', '/upload');
    request.send(blob);
  });

const ownDigest = async (blob) =>
  blob.size <= MAX_COMPARED_BYTES && crypto.subtle
    ? hex(await crypto.subtle.digest('SHA-256', await blob.arrayBuffer()))
    : undefined;

const judge = (kind, words) => {
  byId('verdict').className = kind;
  text('verdict', words);
};

const upload = async (blob, name) => {
  const started = performance.now();
  const rate = (bytes) => `${(bytes / 2 ** 20 / ((performance.now() - started) / 1_000)).toFixed(1)} MiB/s`;
  byId('random').disabled = true;
  byId('progress').hidden = false;
  byId('digest').hidden = true;
  text('upload-note', name);
  try {
    const answer = await post(blob, (loaded, total) => {
      byId('bar').value = loaded / total;
      text('upload-state', `${size(loaded)} of ${size(total)}`);
      text('upload-rate', rate(loaded));
    });
    byId('bar').value = 1;
    text('upload-state', `${size(answer.bytes)} arrived`);
    text('upload-rate', rate(answer.bytes));
    text('sha', answer.sha256);
    byId('digest').hidden = false;
    judge('', 'comparing …');
    const own = await ownDigest(blob);
    if (own === undefined) judge('', 'too large to be hashed in the browser as well');
    else if (own === answer.sha256) judge('good', '✓ the browser computes the same');
    else judge('bad', `✗ the browser computes ${own}`);
  } catch (error) {
    text('upload-note', `The upload failed: ${error.message}.`);
  } finally {
    byId('random').disabled = false;
  }
};

const randomBlob = () => {
  const piece = 65_536; // the most that getRandomValues gives at once
  const parts = Array.from({ length: RANDOM_BYTES / piece }, () => crypto.getRandomValues(new Uint8Array(piece)));
  return new Blob(parts);
};

byId('random').addEventListener('click', () => upload(randomBlob(), '64 MiB of random bytes'));
byId('file').addEventListener('change', ({ target }) => {
  if (target.files[0]) void upload(target.files[0], target.files[0].name);
});
const drop = byId('drop');
for (const [event, isOver] of [
  ['dragover', true],
  ['dragleave', false],
  ['drop', false],
]) {
  drop.addEventListener(event, (moved) => {
    moved.preventDefault();
    drop.classList.toggle('over', isOver);
  });
}
drop.addEventListener('drop', ({ dataTransfer }) => {
  if (dataTransfer.files[0]) void upload(dataTransfer.files[0], dataTransfer.files[0].name);
});
