// Answers a POST with the SHA-256 of its body, GET /canary with the canary, GET /big with bytes that
// depend on the query: node_server.js PORT CANARY
const http = require('http');
const crypto = require('crypto');
const [port, canary] = process.argv.slice(2);
const server = http.createServer((request, response) => {
  if (request.method === 'POST') {
    const digest = crypto.createHash('sha256');
    request.on('data', (chunk) => digest.update(chunk));
    request.on('end', () => response.end(digest.digest('hex')));
  } else if (request.url.startsWith('/big')) {
    response.end(Buffer.alloc(1 << 20, request.url));
  } else {
    response.end(canary);
  }
});
server.keepAliveTimeout = 60000;
server.listen(Number(port), '127.0.0.1');
