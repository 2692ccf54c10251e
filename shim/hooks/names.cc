// Name look-ups: what the process resolved lets policy match names. The look-ups themselves are
// the C library's own; of its sockets see session/name_servers.h.

#include <netinet/in.h>

#include <cstring>

#include "shim/hooks/hook.h"
#include "shim/session/look_up.h"

using namespace inlay::shim;

namespace {

bool learning() { return boot::active() && wants_names(); }

void learn(const char *name, const addrinfo *list) {
  if (name == nullptr || !learning()) return;
  int saved = errno;
  for (; list != nullptr; list = list->ai_next) {
    learn_name(name, list->ai_addr, list->ai_addrlen);
  }
  errno = saved;
}

void learn(const char *name, const hostent *entry) {
  if (name == nullptr || entry == nullptr || !learning()) return;
  int saved = errno;
  for (char **at = entry->h_addr_list; *at != nullptr; ++at) {
    if (entry->h_addrtype == AF_INET) {
      sockaddr_in address{};
      address.sin_family = AF_INET;
      std::memcpy(&address.sin_addr, *at, sizeof address.sin_addr);
      learn_name(name, reinterpret_cast<sockaddr *>(&address), sizeof address);
    } else if (entry->h_addrtype == AF_INET6) {
      sockaddr_in6 address{};
      address.sin6_family = AF_INET6;
      std::memcpy(&address.sin6_addr, *at, sizeof address.sin6_addr);
      learn_name(name, reinterpret_cast<sockaddr *>(&address), sizeof address);
    }
  }
  errno = saved;
}

}  // namespace

extern "C" {

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **result) {
  NameServers servers;
  int error = look_up(servers, [&] { return bound().getaddrinfo(node, service, hints, result); });
  if (error == 0) learn(node, *result);
  if (error == EAI_AGAIN) servers.came_to_nothing();
  return error;
}

int getnameinfo(const struct sockaddr *address, socklen_t length, char *host, socklen_t host_length,
                char *service, socklen_t service_length, int flags) {
  NameServers servers;
  int error = look_up(servers, [&] {
    return bound().getnameinfo(address, length, host, host_length, service, service_length, flags);
  });
  if (error == EAI_AGAIN) servers.came_to_nothing();
  return error;
}

// With GAI_NOWAIT the answers come later; programs fetch each with gai_error(). The C library asks
// in threads of its own, which cannot be kept from TCP: where they must be, this thread asks, or
// nobody does.
int getaddrinfo_a(int mode, struct gaicb *requests[], int count, struct sigevent *event) {
  NameServers servers;
  bool limited = servers.limited();
  servers.end();
  if (limited && mode == GAI_NOWAIT) return EAI_AGAIN;
  if (limited && mode == GAI_WAIT) {
    for (int i = 0; i < count; ++i) {
      gaicb *one = requests[i];
      if (one == nullptr) continue;
      one->__return = getaddrinfo(one->ar_name, one->ar_service, one->ar_request, &one->ar_result);
    }
    return 0;
  }
  int error = bound().getaddrinfo_a(mode, requests, count, event);
  if (mode != GAI_WAIT) return error;
  for (int i = 0; i < count; ++i) {
    if (requests[i] != nullptr && next.gai_error(requests[i]) == 0) {
      learn(requests[i]->ar_name, requests[i]->ar_result);
    }
  }
  return error;
}

int gai_error(struct gaicb *request) noexcept {
  int error = bound().gai_error(request);
  if (error == 0) learn(request->ar_name, request->ar_result);
  return error;
}

struct hostent *gethostbyname(const char *name) {
  NameServers servers;
  hostent *entry = look_up(servers, [&] { return bound().gethostbyname(name); });
  learn(name, entry);
  if (entry == nullptr && h_errno == TRY_AGAIN) servers.came_to_nothing();
  return entry;
}

struct hostent *gethostbyname2(const char *name, int family) {
  NameServers servers;
  hostent *entry = look_up(servers, [&] { return bound().gethostbyname2(name, family); });
  learn(name, entry);
  if (entry == nullptr && h_errno == TRY_AGAIN) servers.came_to_nothing();
  return entry;
}

int gethostbyname_r(const char *name, struct hostent *entry, char *buffer, size_t length,
                    struct hostent **result, int *error) {
  NameServers servers;
  int status = look_up(
      servers, [&] { return bound().gethostbyname_r(name, entry, buffer, length, result, error); });
  if (status == 0) learn(name, *result);
  if (*error == TRY_AGAIN && *result == nullptr) servers.came_to_nothing();
  return status;
}

int gethostbyname2_r(const char *name, int family, struct hostent *entry, char *buffer,
                     size_t length, struct hostent **result, int *error) {
  NameServers servers;
  int status = look_up(servers, [&] {
    return bound().gethostbyname2_r(name, family, entry, buffer, length, result, error);
  });
  if (status == 0) learn(name, *result);
  if (*error == TRY_AGAIN && *result == nullptr) servers.came_to_nothing();
  return status;
}

struct hostent *gethostbyaddr(const void *address, socklen_t length, int family) {
  NameServers servers;
  hostent *entry = look_up(servers, [&] { return bound().gethostbyaddr(address, length, family); });
  if (entry == nullptr && h_errno == TRY_AGAIN) servers.came_to_nothing();
  return entry;
}

int gethostbyaddr_r(const void *address, socklen_t length, int family, struct hostent *entry,
                    char *buffer, size_t size, struct hostent **result, int *error) {
  NameServers servers;
  int status = look_up(servers, [&] {
    return bound().gethostbyaddr_r(address, length, family, entry, buffer, size, result, error);
  });
  if (*error == TRY_AGAIN && *result == nullptr) servers.came_to_nothing();
  return status;
}

// Where there is no /etc/hostid, an address of this machine's name.
long gethostid() {
  NameServers servers;
  return look_up(servers, [&] { return bound().gethostid(); });
}

struct netent *getnetbyname(const char *name) {
  NameServers servers;
  return look_up(servers, [&] { return bound().getnetbyname(name); });
}

int getnetbyname_r(const char *name, struct netent *entry, char *buffer, size_t size,
                   struct netent **result, int *error) {
  NameServers servers;
  return look_up(servers,
                 [&] { return bound().getnetbyname_r(name, entry, buffer, size, result, error); });
}

struct netent *getnetbyaddr(uint32_t net, int type) {
  NameServers servers;
  return look_up(servers, [&] { return bound().getnetbyaddr(net, type); });
}

int getnetbyaddr_r(uint32_t net, int type, struct netent *entry, char *buffer, size_t size,
                   struct netent **result, int *error) {
  NameServers servers;
  return look_up(servers, [&] {
    return bound().getnetbyaddr_r(net, type, entry, buffer, size, result, error);
  });
}

}  // extern "C"
