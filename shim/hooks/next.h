// The next definition of every hooked symbol: the C library's, or another preload's between.
// Bound once, before anything else runs; until then the few calls a binding itself may cause go
// straight to the kernel.
#pragma once

#include <aio.h>
#include <execinfo.h>
#include <fcntl.h>
#include <netdb.h>
#include <pty.h>
#include <resolv.h>
#include <sched.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <syslog.h>
#include <unistd.h>
#include <utmp.h>
#include <wordexp.h>

#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "shim/hooks/list.h"

// The hooks themselves. First those no header declares.
extern "C" {
ssize_t __read(int fd, void *buffer, size_t count);
ssize_t __read_chk(int fd, void *buffer, size_t count, size_t size);
ssize_t __recv(int fd, void *buffer, size_t length, int flags);
ssize_t __recv_chk(int fd, void *buffer, size_t length, size_t size, int flags);
ssize_t __recvfrom_chk(int fd, void *buffer, size_t length, size_t size, int flags,
                       struct sockaddr *from, socklen_t *from_length);
ssize_t __write(int fd, const void *buffer, size_t count);
ssize_t __send(int fd, const void *buffer, size_t length, int flags);
int __sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
int __connect(int fd, const struct sockaddr *address, socklen_t length);
int __socket(int domain, int type, int protocol);
int pidfd_getfd(int pidfd, int target, unsigned int flags);
int __close(int fd);
int __close_nocancel(int fd);
int __clone(int (*run)(void *), void *stack, int flags, void *argument, ...) noexcept;
int __dup2(int from, int to);
int __fcntl(int fd, int command, ...);
FILE *_IO_popen(const char *command, const char *mode);
ssize_t _IO_file_read(FILE *stream, void *data, ssize_t size);
ssize_t _IO_file_write(FILE *stream, const void *data, ssize_t size);
int _IO_file_close(FILE *stream);
int _IO_proc_close(FILE *stream);
int getrpcport(const char *host, unsigned long program, unsigned long version, unsigned int protocol);
int callrpc(const char *host, unsigned long program, unsigned long version, unsigned long procedure,
            void *encode, const char *request, void *decode, char *answer);
void *clnt_create(const char *host, unsigned long program, unsigned long version, const char *protocol);
void *clnttcp_create(struct sockaddr_in *address, unsigned long program, unsigned long version, int *fd, unsigned int send_size, unsigned int receive_size);
void *svctcp_create(int fd, unsigned int send_size, unsigned int receive_size);
void *svcfd_create(int fd, unsigned int send_size, unsigned int receive_size);
void *pmap_getmaps(struct sockaddr_in *address);
int rtime(struct sockaddr_in *address, void *time, struct timeval *timeout);
void __backtrace_symbols_fd(void *const *frames, int count, int fd);
int __res_query(const char *name, int kind, int type, unsigned char *answer, int size);
int __res_search(const char *name, int kind, int type, unsigned char *answer, int size);
int __res_querydomain(const char *name, const char *domain, int kind, int type, unsigned char *answer, int size);
int __res_send(const unsigned char *query, int length, unsigned char *answer, int size);
int __res_nquery(struct __res_state *state, const char *name, int kind, int type, unsigned char *answer, int size);
int __res_nsearch(struct __res_state *state, const char *name, int kind, int type, unsigned char *answer, int size);
int __res_nquerydomain(struct __res_state *state, const char *name, const char *domain, int kind, int type, unsigned char *answer, int size);
int __res_nsend(struct __res_state *state, const unsigned char *query, int length, unsigned char *answer, int size);
void __syslog_chk(int priority, int flag, const char *format, ...);
void __vsyslog_chk(int priority, int flag, const char *format, va_list arguments);
int __dprintf_chk(int fd, int flag, const char *format, ...);
int __vdprintf_chk(int fd, int flag, const char *format, va_list arguments);

// All visible, and otherwise as declared: a cancellation point may throw, the others may not.
#define INLAY_DECLARE(family, disposition, type, name, parameters, note) \
  extern __typeof__(name) name __attribute__((visibility("default")));
INLAY_HOOKS(INLAY_DECLARE)
#undef INLAY_DECLARE
}

namespace inlay::shim {

struct Next {
#define INLAY_MEMBER(family, disposition, type, name, parameters, note) type(*name) parameters;
  INLAY_HOOKS(INLAY_MEMBER)
#undef INLAY_MEMBER
};

// A member is null where this C library lacks the symbol.
extern Next next;

// Looks every symbol up. Calls that arrive while it runs use the kernel directly.
void bind_next() noexcept;

}  // namespace inlay::shim
