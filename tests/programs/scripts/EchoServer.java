import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;

/** An echo server: java EchoServer.java PORT blocking|nio. */
class EchoServer {
  public static void main(String[] words) throws IOException {
    int port = Integer.parseInt(words[0]);
    if (words[1].equals("blocking")) {
      serveWithThreads(port);
    } else {
      serveWithSelector(port);
    }
  }

  static void serveWithThreads(int port) throws IOException {
    ServerSocket listener = new ServerSocket(port, 64, InetAddress.getByName("127.0.0.1"));
    for (;;) {
      Socket socket = listener.accept();
      new Thread(() -> echo(socket)).start();
    }
  }

  static void echo(Socket socket) {
    try (socket) {
      InputStream in = socket.getInputStream();
      OutputStream out = socket.getOutputStream();
      byte[] buffer = new byte[65536];
      for (int got; (got = in.read(buffer)) >= 0; ) {
        out.write(buffer, 0, got);
      }
    } catch (IOException error) {
      System.err.println(error.getMessage());
    }
  }

  static void serveWithSelector(int port) throws IOException {
    Selector selector = Selector.open();
    ServerSocketChannel listener = ServerSocketChannel.open();
    listener.bind(new InetSocketAddress("127.0.0.1", port), 64);
    listener.configureBlocking(false);
    listener.register(selector, SelectionKey.OP_ACCEPT);
    for (;;) {
      selector.select();
      for (SelectionKey key : selector.selectedKeys()) {
        if (key.isAcceptable()) {
          SocketChannel channel = listener.accept();
          if (channel == null) continue;
          channel.configureBlocking(false);
          channel.register(selector, SelectionKey.OP_READ, ByteBuffer.allocateDirect(65536));
        } else {
          serve(key);
        }
      }
      selector.selectedKeys().clear();
    }
  }

  // What could not be written waits in the buffer, and reading with it.
  static void serve(SelectionKey key) throws IOException {
    SocketChannel channel = (SocketChannel) key.channel();
    ByteBuffer buffer = (ByteBuffer) key.attachment();
    try {
      if (key.isReadable()) {
        if (channel.read(buffer) < 0) {
          channel.close();
          return;
        }
        buffer.flip();
      }
      channel.write(buffer);
      if (buffer.hasRemaining()) {
        key.interestOps(SelectionKey.OP_WRITE);
      } else {
        buffer.clear();
        key.interestOps(SelectionKey.OP_READ);
      }
    } catch (IOException error) {
      System.err.println(error.getMessage());
      channel.close();
    }
  }
}
