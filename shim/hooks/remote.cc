// rcmd() and rexec() connect sockets of the C library's own, and send names, passwords and commands
// over them. They cannot be protected: they run where policy lets every address of the host through
// in the clear, and give EACCES elsewhere. These and the ruserok() family look names up, too.

#include "shim/hooks/hook.h"
#include "shim/session/look_up.h"

using namespace inlay::shim;

namespace {

// `port` in network order, as these functions take it.
bool may_connect(char *const *host, unsigned short port, int family) {
  if (!boot::active() || host == nullptr || *host == nullptr) return true;
  addrinfo hints{}, *list = nullptr;
  hints.ai_family = family;
  hints.ai_socktype = SOCK_STREAM;
  if (getaddrinfo(*host, nullptr, &hints, &list) != 0) return true;  // nowhere to connect to
  bool may = true;
  for (addrinfo *one = list; one != nullptr && may; one = one->ai_next) {
    // The port is at the same place in both families' addresses.
    reinterpret_cast<sockaddr_in *>(one->ai_addr)->sin_port = port;
    may = may_connect_in_the_clear(one->ai_addr, one->ai_addrlen);
  }
  freeaddrinfo(list);
  return may;
}

}  // namespace

extern "C" {

int rcmd(char **host, unsigned short port, const char *own_user, const char *user,
         const char *command, int *errors) {
  if (!may_connect(host, port, AF_INET)) return fail(EACCES);
  NameServers servers;
  return look_up(servers,
                 [&] { return bound().rcmd(host, port, own_user, user, command, errors); });
}

int rcmd_af(char **host, unsigned short port, const char *own_user, const char *user,
            const char *command, int *errors, sa_family_t family) {
  if (!may_connect(host, port, family)) return fail(EACCES);
  NameServers servers;
  return look_up(servers, [&] {
    return bound().rcmd_af(host, port, own_user, user, command, errors, family);
  });
}

int rexec(char **host, int port, const char *user, const char *password, const char *command,
          int *errors) {
  if (!may_connect(host, static_cast<unsigned short>(port), AF_INET)) return fail(EACCES);
  NameServers servers;
  return look_up(servers,
                 [&] { return bound().rexec(host, port, user, password, command, errors); });
}

int rexec_af(char **host, int port, const char *user, const char *password, const char *command,
             int *errors, sa_family_t family) {
  if (!may_connect(host, static_cast<unsigned short>(port), family)) return fail(EACCES);
  NameServers servers;
  return look_up(servers, [&] {
    return bound().rexec_af(host, port, user, password, command, errors, family);
  });
}

int ruserok(const char *host, int superuser, const char *remote_user, const char *own_user) {
  NameServers servers;
  return look_up(servers, [&] { return bound().ruserok(host, superuser, remote_user, own_user); });
}

int ruserok_af(const char *host, int superuser, const char *remote_user, const char *own_user,
               sa_family_t family) {
  NameServers servers;
  return look_up(
      servers, [&] { return bound().ruserok_af(host, superuser, remote_user, own_user, family); });
}

int iruserok(uint32_t address, int superuser, const char *remote_user, const char *own_user) {
  NameServers servers;
  return look_up(servers,
                 [&] { return bound().iruserok(address, superuser, remote_user, own_user); });
}

int iruserok_af(const void *address, int superuser, const char *remote_user, const char *own_user,
                sa_family_t family) {
  NameServers servers;
  return look_up(servers, [&] {
    return bound().iruserok_af(address, superuser, remote_user, own_user, family);
  });
}

}  // extern "C"
