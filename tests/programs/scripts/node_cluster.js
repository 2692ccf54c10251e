// An echo server in two ways: node_cluster.js PORT rr|shared|pass
// rr: the primary accepts and passes each connection to a worker over a Unix socket (SCM_RIGHTS).
// shared: the workers accept on a listener that was passed to them. pass: a child is sent the
// connection with process.send(), paused.
const cluster = require('cluster');
const net = require('net');
const { fork } = require('child_process');
const [port, how] = process.argv.slice(2);

const echo = (socket) => {
  socket.on('error', (error) => console.error(error.code));
  socket.pipe(socket);
};

if (how === 'child') {
  process.on('message', (message, socket) => {
    if (socket) {
      echo(socket);
      socket.resume();
    }
  });
  process.on('disconnect', () => process.exit(0));
} else if (how === 'pass') {
  const children = [0, 1].map(() => fork(__filename, [port, 'child']));
  let next = 0;
  net.createServer({ pauseOnConnect: true }, (socket) => {
    children[next++ % 2].send('socket', socket);
  }).listen({ port: Number(port), host: '127.0.0.1', backlog: 64 });
} else if (cluster.isPrimary) {
  cluster.schedulingPolicy = how === 'rr' ? cluster.SCHED_RR : cluster.SCHED_NONE;
  cluster.fork();
  cluster.fork();
} else {
  net.createServer(echo).listen({ port: Number(port), host: '127.0.0.1', backlog: 64 });
}
