// The resolver's own interface. The names with underscores are those of programs built for a C
// library before 2.34; they do the same. Those that are declared noexcept are other names for them:
// out of a function that is noexcept itself, the unwinding of a cancelled thread would end the
// process.

#include <arpa/nameser.h>
#include <resolv.h>

#include "shim/hooks/hook.h"
#include "shim/session/look_up.h"

using namespace inlay::shim;

namespace {

int noted(NameServers &servers, int length) {
  if (length < 0) servers.came_to_nothing();
  return length;
}

}  // namespace

extern "C" {

int __res_query(const char *name, int kind, int type, unsigned char *answer, int size) {
  NameServers servers;
  return noted(servers,
               look_up(servers, [&] { return bound().res_query(name, kind, type, answer, size); }));
}
int res_query(const char *name, int kind, int type, unsigned char *answer, int size) noexcept
    __attribute__((alias("__res_query")));

int __res_search(const char *name, int kind, int type, unsigned char *answer, int size) {
  NameServers servers;
  return noted(servers, look_up(servers, [&] {
                 return bound().res_search(name, kind, type, answer, size);
               }));
}
int res_search(const char *name, int kind, int type, unsigned char *answer, int size) noexcept
    __attribute__((alias("__res_search")));

int __res_querydomain(const char *name, const char *domain, int kind, int type,
                      unsigned char *answer, int size) {
  NameServers servers;
  return noted(servers, look_up(servers, [&] {
                 return bound().res_querydomain(name, domain, kind, type, answer, size);
               }));
}
int res_querydomain(const char *name, const char *domain, int kind, int type, unsigned char *answer,
                    int size) noexcept __attribute__((alias("__res_querydomain")));

int __res_send(const unsigned char *query, int length, unsigned char *answer, int size) {
  NameServers servers(nullptr, length > NS_PACKETSZ);
  return noted(servers,
               look_up(servers, [&] { return bound().res_send(query, length, answer, size); }));
}
int res_send(const unsigned char *query, int length, unsigned char *answer, int size) noexcept
    __attribute__((alias("__res_send")));

int __res_nquery(res_state state, const char *name, int kind, int type, unsigned char *answer,
                 int size) {
  NameServers servers(state);
  return noted(servers, look_up(servers, [&] {
                 return bound().res_nquery(state, name, kind, type, answer, size);
               }));
}
int res_nquery(res_state state, const char *name, int kind, int type, unsigned char *answer,
               int size) noexcept __attribute__((alias("__res_nquery")));

int __res_nsearch(res_state state, const char *name, int kind, int type, unsigned char *answer,
                  int size) {
  NameServers servers(state);
  return noted(servers, look_up(servers, [&] {
                 return bound().res_nsearch(state, name, kind, type, answer, size);
               }));
}
int res_nsearch(res_state state, const char *name, int kind, int type, unsigned char *answer,
                int size) noexcept __attribute__((alias("__res_nsearch")));

int __res_nquerydomain(res_state state, const char *name, const char *domain, int kind, int type,
                       unsigned char *answer, int size) {
  NameServers servers(state);
  return noted(servers, look_up(servers, [&] {
                 return bound().res_nquerydomain(state, name, domain, kind, type, answer, size);
               }));
}
int res_nquerydomain(res_state state, const char *name, const char *domain, int kind, int type,
                     unsigned char *answer, int size) noexcept
    __attribute__((alias("__res_nquerydomain")));

int __res_nsend(res_state state, const unsigned char *query, int length, unsigned char *answer,
                int size) {
  NameServers servers(state, length > NS_PACKETSZ);
  return noted(servers, look_up(servers, [&] {
                 return bound().res_nsend(state, query, length, answer, size);
               }));
}
int res_nsend(res_state state, const unsigned char *query, int length, unsigned char *answer,
              int size) noexcept __attribute__((alias("__res_nsend")));

}  // extern "C"
