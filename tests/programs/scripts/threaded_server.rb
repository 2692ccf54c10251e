# An echo server with a thread for each connection: threaded_server.rb PORT
require 'socket'
server = TCPServer.new('127.0.0.1', ARGV[0].to_i)
server.listen(64)
loop do
  Thread.new(server.accept) do |connection|
    begin
      while (data = connection.readpartial(65536))
        connection.write(data)
      end
    rescue EOFError, SystemCallError => error
      warn error.class
    ensure
      connection.close
    end
  end
end
