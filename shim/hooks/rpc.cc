// Sun RPC, which the C library keeps for programs linked before its version 2.32. It connects,
// accepts, reads and writes by itself, on ports that a port mapper tells it: over TCP it is
// refused. What is linked today uses libtirpc, whose calls are the hooks.

#include <cstring>

#include "shim/hooks/hook.h"
#include "shim/session/look_up.h"

using namespace inlay::shim;

namespace {

bool refused(const char *call) {
  if (!boot::active()) return false;
  note_refused(call);
  errno = EACCES;
  return true;
}

}  // namespace

extern "C" {

void *clnt_create(const char *host, unsigned long program, unsigned long version,
                  const char *protocol) {
  if (protocol != nullptr && std::strcmp(protocol, "tcp") == 0 && refused("clnt_create")) {
    return nullptr;
  }
  NameServers servers;
  return look_up(servers, [&] { return bound().clnt_create(host, program, version, protocol); });
}

int getrpcport(const char *host, unsigned long program, unsigned long version,
               unsigned int protocol) {
  NameServers servers;
  return look_up(servers, [&] { return bound().getrpcport(host, program, version, protocol); });
}

// Over UDP.
int callrpc(const char *host, unsigned long program, unsigned long version, unsigned long procedure,
            void *encode, const char *request, void *decode, char *answer) {
  NameServers servers;
  return look_up(servers, [&] {
    return bound().callrpc(host, program, version, procedure, encode, request, decode, answer);
  });
}

void *clnttcp_create(struct sockaddr_in *address, unsigned long program, unsigned long version,
                     int *fd, unsigned int send_size, unsigned int receive_size) {
  if (refused("clnttcp_create")) return nullptr;
  return bound().clnttcp_create(address, program, version, fd, send_size, receive_size);
}

void *svctcp_create(int fd, unsigned int send_size, unsigned int receive_size) {
  if (refused("svctcp_create")) return nullptr;
  return bound().svctcp_create(fd, send_size, receive_size);
}

void *svcfd_create(int fd, unsigned int send_size, unsigned int receive_size) {
  if (refused("svcfd_create")) return nullptr;
  return bound().svcfd_create(fd, send_size, receive_size);
}

void *pmap_getmaps(struct sockaddr_in *address) {
  if (refused("pmap_getmaps")) return nullptr;
  return bound().pmap_getmaps(address);
}

// With a timeout it asks in datagrams.
int rtime(struct sockaddr_in *address, void *time, struct timeval *timeout) {
  if (timeout == nullptr && refused("rtime")) return -1;
  return bound().rtime(address, time, timeout);
}

}  // extern "C"
