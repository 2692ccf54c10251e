// Requests over a few kept connections, bodies checked: node_client.js PORT CANARY COUNT [show]
const http = require('http');
const crypto = require('crypto');
const [port, canary, count, show] = process.argv.slice(2);
const agent = new http.Agent({keepAlive: true, maxSockets: 4});
const ports = new Set();

function ask(method, path, body) {
  return new Promise((resolve, reject) => {
    const options = {host: '127.0.0.1', port, method, path, agent};
    const request = http.request(options, (response) => {
      ports.add(response.socket.localPort);
      const chunks = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('end', () => resolve(Buffer.concat(chunks)));
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end(body);
  });
}

async function one(number) {
  const body = Buffer.concat([Buffer.from(canary), crypto.randomBytes(number * 997 + 1)]);
  const digest = crypto.createHash('sha256').update(body).digest('hex');
  if ((await ask('POST', '/', body)).toString() !== digest) throw new Error('the body arrived changed');
  const path = `/big?${number}`;
  if (!(await ask('GET', path)).equals(Buffer.alloc(1 << 20, path))) throw new Error('a reply came changed');
}

async function main() {
  if (show) {
    console.log((await ask('GET', `/canary?${canary}`)).toString());
  } else {
    await Promise.all(Array.from({length: Number(count)}, (_, number) => one(number)));
    console.log(`intact over ${ports.size} connections`);
  }
  agent.destroy();
}

main().catch((error) => { console.error(error.code || error.message); process.exitCode = 2; });
