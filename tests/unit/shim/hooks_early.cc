// Uses hooked calls from .preinit_array, which runs before the constructor of any library.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace {

int g_socket = -1;
int g_connected = 0;
int g_error = 0;

void early() {
  int file = dup(1);
  close(file);
  g_socket = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(1);  // tcpmux: nobody listens
  g_connected = connect(g_socket, reinterpret_cast<sockaddr *>(&address), sizeof address);
  g_error = errno;
}

[[gnu::section(".preinit_array"), gnu::used]] void (*g_early)() = early;

}  // namespace

int main() {
  std::printf("early connect: %d %s\n", g_connected, strerrorname_np(g_error));
  return g_socket >= 0 ? 0 : 1;
}
