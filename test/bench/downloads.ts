/** `node downloads.ts <port> <host> <count>`: downloads without end, as a program of its own. Prints MiB so far each second. */
import { connect } from 'node:tls';

const [port, host, count] = process.argv.slice(2);
const BYTES = 2 ** 40;
let bytes = 0;
for (let index = 0; index < Number(count); index++) {
  const socket = connect(
    { host: '127.0.0.1', port: Number(port), servername: host ?? '', rejectUnauthorized: false },
    () => socket.write(`GET /bytes/${BYTES} HTTP/1.1\r\nHost: ${host}:${port}\r\n\r\n`),
  );
  socket.on('data', (chunk: Buffer) => (bytes += chunk.length));
  socket.on('error', (error) => {
    console.error(error);
    process.exitCode = 1;
  });
}
setInterval(() => console.log(`received ${Math.round(bytes / 2 ** 20)} MiB`), 1_000);
