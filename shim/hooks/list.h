// Every libc symbol inlay interposes, once: the linker's export map, the binding of the next symbol
// (next.h), the table in shim/README.md and the coverage test are all made from this list. Plain
// preprocessor text, no includes: the export map is made by the preprocessor alone.
//
// X(family, disposition, return type, name, parameters, note)
//   family       the file under shim/hooks/ that holds the hook
//   disposition  protect  a managed socket gets the call's meaning through its session
//                refuse   on a managed socket the call fails, as the note says
//                watch    passed through; inlay learns something or keeps its books
//   note         for the table: what happens on a managed socket, or what is learned
#pragma once

#define INLAY_HOOKS(X)                                                                             \
  X(data, protect, ssize_t, read, (int fd, void *buffer, size_t count), "")                        \
  X(data, protect, ssize_t, __read, (int fd, void *buffer, size_t count), "")                      \
  X(data, protect, ssize_t, __read_chk, (int fd, void *buffer, size_t count, size_t size),         \
    "the C library's own check when the buffer is too small")                                      \
  X(data, protect, ssize_t, readv, (int fd, const struct iovec *parts, int count), "")             \
  X(data, protect, ssize_t, preadv2,                                                               \
    (int fd, const struct iovec *parts, int count, off_t offset, int flags),                       \
    "offset -1 only, as on any socket")                                                            \
  X(data, protect, ssize_t, preadv64v2,                                                            \
    (int fd, const struct iovec *parts, int count, off64_t offset, int flags),                     \
    "offset -1 only, as on any socket")                                                            \
  X(data, protect, ssize_t, recv, (int fd, void *buffer, size_t length, int flags), "")            \
  X(data, protect, ssize_t, __recv, (int fd, void *buffer, size_t length, int flags), "")          \
  X(data, protect, ssize_t, __recv_chk,                                                            \
    (int fd, void *buffer, size_t length, size_t size, int flags),                                 \
    "the C library's own check when the buffer is too small")                                      \
  X(data, protect, ssize_t, recvfrom,                                                              \
    (int fd, void *buffer, size_t length, int flags, struct sockaddr *from, socklen_t *from_length), \
    "")                                                                                            \
  X(data, protect, ssize_t, __recvfrom_chk,                                                        \
    (int fd, void *buffer, size_t length, size_t size, int flags, struct sockaddr *from,           \
     socklen_t *from_length),                                                                      \
    "the C library's own check when the buffer is too small")                                      \
  X(data, protect, ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), "")              \
  X(data, protect, int, recvmmsg,                                                                  \
    (int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout),   \
    "")                                                                                            \
  X(data, protect, ssize_t, write, (int fd, const void *buffer, size_t count), "")                 \
  X(data, protect, ssize_t, __write, (int fd, const void *buffer, size_t count), "")               \
  X(data, protect, ssize_t, writev, (int fd, const struct iovec *parts, int count), "")            \
  X(data, protect, ssize_t, pwritev2,                                                              \
    (int fd, const struct iovec *parts, int count, off_t offset, int flags),                       \
    "offset -1 only, as on any socket")                                                            \
  X(data, protect, ssize_t, pwritev64v2,                                                           \
    (int fd, const struct iovec *parts, int count, off64_t offset, int flags),                     \
    "offset -1 only, as on any socket")                                                            \
  X(data, protect, ssize_t, send, (int fd, const void *buffer, size_t length, int flags), "")      \
  X(data, protect, ssize_t, __send, (int fd, const void *buffer, size_t length, int flags), "")    \
  X(data, protect, ssize_t, sendto,                                                                \
    (int fd, const void *buffer, size_t length, int flags, const struct sockaddr *to,              \
     socklen_t to_length),                                                                         \
    "MSG_FASTOPEN is a connect")                                                                   \
  X(data, protect, ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags),            \
    "MSG_FASTOPEN is a connect")                                                                   \
  X(data, protect, int, sendmmsg,                                                                  \
    (int fd, struct mmsghdr *messages, unsigned int count, int flags), "")                         \
  X(data, protect, int, __sendmmsg,                                                                \
    (int fd, struct mmsghdr *messages, unsigned int count, int flags), "")                         \
  X(copy, protect, ssize_t, sendfile, (int to, int from, off_t *offset, size_t count),             \
    "from a managed socket: EINVAL")                                                               \
  X(copy, protect, ssize_t, sendfile64, (int to, int from, off64_t *offset, size_t count),         \
    "from a managed socket: EINVAL")                                                               \
  X(copy, refuse, ssize_t, splice,                                                                 \
    (int from, off64_t *from_offset, int to, off64_t *to_offset, size_t count,                     \
     unsigned int flags),                                                                          \
    "EINVAL")                                                                                      \
  X(aio, refuse, int, aio_read, (struct aiocb * request), "ENOSYS")                                \
  X(aio, refuse, int, aio_read64, (struct aiocb64 * request), "ENOSYS")                            \
  X(aio, refuse, int, aio_write, (struct aiocb * request), "ENOSYS")                               \
  X(aio, refuse, int, aio_write64, (struct aiocb64 * request), "ENOSYS")                           \
  X(aio, refuse, int, lio_listio,                                                                  \
    (int mode, struct aiocb *const requests[], int count, struct sigevent *event), "ENOSYS")       \
  X(aio, refuse, int, lio_listio64,                                                                \
    (int mode, struct aiocb64 *const requests[], int count, struct sigevent *event), "ENOSYS")     \
  X(connect, protect, int, connect, (int fd, const struct sockaddr *address, socklen_t length),    \
    "policy decides; EACCES when it refuses")                                                      \
  X(connect, protect, int, __connect, (int fd, const struct sockaddr *address, socklen_t length),  \
    "policy decides; EACCES when it refuses")                                                      \
  X(accept, protect, int, accept, (int fd, struct sockaddr *address, socklen_t *length),           \
    "policy decides")                                                                              \
  X(accept, protect, int, accept4,                                                                 \
    (int fd, struct sockaddr *address, socklen_t *length, int flags), "policy decides")            \
  X(options, protect, int, getsockopt,                                                             \
    (int fd, int level, int option, void *value, socklen_t *length), "")                           \
  X(options, protect, int, setsockopt,                                                             \
    (int fd, int level, int option, const void *value, socklen_t length), "")                      \
  X(options, protect, int, ioctl, (int fd, unsigned long request, ...),                            \
    "FIONREAD counts application bytes")                                                           \
  X(options, protect, int, shutdown, (int fd, int how), "")                                        \
  X(descriptors, watch, int, socket, (int domain, int type, int protocol), "a new descriptor")     \
  X(descriptors, watch, int, __socket, (int domain, int type, int protocol), "a new descriptor")   \
  X(descriptors, watch, int, socketpair, (int domain, int type, int protocol, int pair[2]),        \
    "new descriptors")                                                                             \
  X(descriptors, watch, int, pidfd_getfd, (int pidfd, int target, unsigned int flags),             \
    "a new descriptor")                                                                            \
  X(descriptors, protect, int, close, (int fd), "")                                                \
  X(descriptors, protect, int, __close, (int fd), "")                                              \
  X(descriptors, protect, int, __close_nocancel, (int fd), "")                                     \
  X(descriptors, protect, int, close_range, (unsigned int first, unsigned int last, int flags),    \
    "")                                                                                            \
  X(descriptors, protect, void, closefrom, (int first), "")                                        \
  X(descriptors, protect, int, dup, (int fd), "")                                                  \
  X(descriptors, protect, int, dup2, (int from, int to), "")                                       \
  X(descriptors, protect, int, __dup2, (int from, int to), "")                                     \
  X(descriptors, protect, int, dup3, (int from, int to, int flags), "")                            \
  X(descriptors, protect, int, fcntl, (int fd, int command, ...), "F_DUPFD, F_DUPFD_CLOEXEC")      \
  X(descriptors, protect, int, __fcntl, (int fd, int command, ...), "F_DUPFD, F_DUPFD_CLOEXEC")    \
  X(descriptors, protect, int, fcntl64, (int fd, int command, ...), "F_DUPFD, F_DUPFD_CLOEXEC")    \
  X(descriptors, watch, int, epoll_ctl,                                                            \
    (int epoll, int operation, int fd, struct epoll_event *event),                                 \
    "which sets hold the socket")                                                                  \
  X(streams, watch, FILE *, popen, (const char *command, const char *mode),                        \
    "restores the environment")                                                                    \
  X(streams, watch, FILE *, _IO_popen, (const char *command, const char *mode),                    \
    "restores the environment")                                                                    \
  X(streams, refuse, FILE *, freopen, (const char *path, const char *mode, FILE *stream),          \
    "the connection is ended first")                                                               \
  X(streams, refuse, FILE *, freopen64, (const char *path, const char *mode, FILE *stream),        \
    "the connection is ended first")                                                               \
  X(streams, protect, ssize_t, _IO_file_read, (FILE * stream, void *data, ssize_t size), "")       \
  X(streams, protect, ssize_t, _IO_file_write, (FILE * stream, const void *data, ssize_t size),    \
    "")                                                                                            \
  X(streams, protect, int, _IO_file_close, (FILE * stream), "")                                    \
  X(streams, protect, int, _IO_proc_close, (FILE * stream), "")                                    \
  X(stdio, protect, int, dprintf, (int fd, const char *format, ...), "")                           \
  X(stdio, protect, int, vdprintf, (int fd, const char *format, va_list arguments), "")            \
  X(stdio, protect, int, __dprintf_chk, (int fd, int flag, const char *format, ...), "")           \
  X(stdio, protect, int, __vdprintf_chk,                                                           \
    (int fd, int flag, const char *format, va_list arguments), "")                                 \
  X(stdio, refuse, void, psiginfo, (const siginfo_t *info, const char *text),                      \
    "the connection is ended")                                                                     \
  X(stdio, protect, void, backtrace_symbols_fd, (void *const *frames, int count, int fd), "")      \
  X(stdio, protect, void, __backtrace_symbols_fd, (void *const *frames, int count, int fd), "")    \
  X(syslog, watch, void, openlog, (const char *name, int options, int facility), "LOG_PERROR")     \
  X(syslog, protect, void, syslog, (int priority, const char *format, ...),                        \
    "the copy of LOG_PERROR")                                                                      \
  X(syslog, protect, void, vsyslog, (int priority, const char *format, va_list arguments),         \
    "the copy of LOG_PERROR")                                                                      \
  X(syslog, protect, void, __syslog_chk, (int priority, int flag, const char *format, ...),        \
    "the copy of LOG_PERROR")                                                                      \
  X(syslog, protect, void, __vsyslog_chk, (int priority, int flag, const char *format, va_list arguments),\
    "the copy of LOG_PERROR")                                                                      \
  X(names, watch, int, getaddrinfo,                                                                \
    (const char *node, const char *service, const struct addrinfo *hints,                          \
     struct addrinfo **result),                                                                    \
    "the addresses of a name")                                                                     \
  X(names, watch, int, getaddrinfo_a,                                                              \
    (int mode, struct gaicb *requests[], int count, struct sigevent *event),                       \
    "the addresses of a name")                                                                     \
  X(names, watch, int, getnameinfo, (const struct sockaddr *address, socklen_t length, char        \
    *host, socklen_t host_length, char *service, socklen_t service_length, int flags), "not "      \
    "over TCP, unless in the clear by policy")                                                     \
  X(names, watch, struct hostent *, gethostbyaddr, (const void *address, socklen_t length,         \
    int family), "not over TCP, unless in the clear by policy")                                    \
  X(names, watch, int, gethostbyaddr_r, (const void *address, socklen_t length, int family,        \
    struct hostent *entry, char *buffer, size_t size, struct hostent **result, int *error),        \
    "not over TCP, unless in the clear by policy")                                                 \
  X(names, watch, struct netent *, getnetbyname, (const char *name),                               \
    "not over TCP, unless in the clear by policy")                                                 \
  X(names, watch, int, getnetbyname_r,                                                             \
    (const char *name, struct netent *entry, char *buffer, size_t size, struct netent **result,    \
     int *error),                                                                                  \
    "not over TCP, unless in the clear by policy")                                                 \
  X(names, watch, struct netent *, getnetbyaddr, (uint32_t net, int type),                         \
    "not over TCP, unless in the clear by policy")                                                 \
  X(names, watch, int, getnetbyaddr_r,                                                             \
    (uint32_t net, int type, struct netent *entry, char *buffer, size_t size,                      \
     struct netent **result, int *error),                                                          \
    "not over TCP, unless in the clear by policy")                                                 \
  X(names, watch, long, gethostid, (void), "its look-ups not over TCP, unless in the clear by policy") \
  X(names, watch, int, gai_error, (struct gaicb * request), "the addresses of a name")             \
  X(names, watch, struct hostent *, gethostbyname, (const char *name),                             \
    "the addresses of a name")                                                                     \
  X(names, watch, struct hostent *, gethostbyname2, (const char *name, int family),                \
    "the addresses of a name")                                                                     \
  X(names, watch, int, gethostbyname_r,                                                            \
    (const char *name, struct hostent *entry, char *buffer, size_t length,                         \
     struct hostent **result, int *error),                                                         \
    "the addresses of a name")                                                                     \
  X(names, watch, int, gethostbyname2_r,                                                           \
    (const char *name, int family, struct hostent *entry, char *buffer, size_t length,             \
     struct hostent **result, int *error),                                                         \
    "the addresses of a name")                                                                     \
  X(resolver, refuse, int, res_query, (const char *name, int kind, int type, unsigned char         \
    *answer, int size), "over TCP, unless in the clear by policy")                                 \
  X(resolver, refuse, int, __res_query, (const char *name, int kind, int type, unsigned char       \
    *answer, int size), "over TCP, unless in the clear by policy")                                 \
  X(resolver, refuse, int, res_search, (const char *name, int kind, int type, unsigned char        \
    *answer, int size), "over TCP, unless in the clear by policy")                                 \
  X(resolver, refuse, int, __res_search, (const char *name, int kind, int type, unsigned           \
    char *answer, int size), "over TCP, unless in the clear by policy")                            \
  X(resolver, refuse, int, res_querydomain, (const char *name, const char *domain, int kind,       \
    int type, unsigned char *answer, int size), "over TCP, unless in the clear by policy")         \
  X(resolver, refuse, int, __res_querydomain, (const char *name, const char *domain, int           \
    kind, int type, unsigned char *answer, int size), "over TCP, unless in the clear by "          \
    "policy")                                                                                      \
  X(resolver, refuse, int, res_send, (const unsigned char *query, int length, unsigned char        \
    *answer, int size), "over TCP, unless in the clear by policy")                                 \
  X(resolver, refuse, int, __res_send, (const unsigned char *query, int length, unsigned           \
    char *answer, int size), "over TCP, unless in the clear by policy")                            \
  X(resolver, refuse, int, res_nquery, (struct __res_state *state, const char *name, int           \
    kind, int type, unsigned char *answer, int size), "over TCP, unless in the clear by "          \
    "policy")                                                                                      \
  X(resolver, refuse, int, __res_nquery, (struct __res_state *state, const char *name, int         \
    kind, int type, unsigned char *answer, int size), "over TCP, unless in the clear by "          \
    "policy")                                                                                      \
  X(resolver, refuse, int, res_nsearch, (struct __res_state *state, const char *name, int          \
    kind, int type, unsigned char *answer, int size), "over TCP, unless in the clear by "          \
    "policy")                                                                                      \
  X(resolver, refuse, int, __res_nsearch, (struct __res_state *state, const char *name, int        \
    kind, int type, unsigned char *answer, int size), "over TCP, unless in the clear by "          \
    "policy")                                                                                      \
  X(resolver, refuse, int, res_nquerydomain, (struct __res_state *state, const char *name,         \
    const char *domain, int kind, int type, unsigned char *answer, int size), "over TCP, "         \
    "unless in the clear by policy")                                                               \
  X(resolver, refuse, int, __res_nquerydomain, (struct __res_state *state, const char *name,       \
    const char *domain, int kind, int type, unsigned char *answer, int size), "over TCP, "         \
    "unless in the clear by policy")                                                               \
  X(resolver, refuse, int, res_nsend, (struct __res_state *state, const unsigned char              \
    *query, int length, unsigned char *answer, int size), "over TCP, unless in the clear by "      \
    "policy")                                                                                      \
  X(resolver, refuse, int, __res_nsend, (struct __res_state *state, const unsigned char            \
    *query, int length, unsigned char *answer, int size), "over TCP, unless in the clear by "      \
    "policy")                                                                                      \
  X(remote, refuse, int, rcmd, (char **host, unsigned short port, const char *own_user,            \
    const char *user, const char *command, int *errors), "EACCES, unless in the clear by "         \
    "policy")                                                                                      \
  X(remote, refuse, int, rcmd_af, (char **host, unsigned short port, const char *own_user,         \
    const char *user, const char *command, int *errors, sa_family_t family), "EACCES, unless "     \
    "in the clear by policy")                                                                      \
  X(remote, refuse, int, rexec, (char **host, int port, const char *user, const char               \
    *password, const char *command, int *errors), "EACCES, unless in the clear by policy")         \
  X(remote, refuse, int, rexec_af, (char **host, int port, const char *user, const char            \
    *password, const char *command, int *errors, sa_family_t family), "EACCES, unless in the "     \
    "clear by policy")                                                                             \
  X(remote, watch, int, ruserok,                                                                   \
    (const char *host, int superuser, const char *remote_user, const char *own_user),              \
    "its look-ups not over TCP, unless in the clear by policy")                                    \
  X(remote, watch, int, ruserok_af,                                                                \
    (const char *host, int superuser, const char *remote_user, const char *own_user,               \
     sa_family_t family),                                                                          \
    "its look-ups not over TCP, unless in the clear by policy")                                    \
  X(remote, watch, int, iruserok,                                                                  \
    (uint32_t address, int superuser, const char *remote_user, const char *own_user),              \
    "its look-ups not over TCP, unless in the clear by policy")                                    \
  X(remote, watch, int, iruserok_af,                                                               \
    (const void *address, int superuser, const char *remote_user, const char *own_user,            \
     sa_family_t family),                                                                          \
    "its look-ups not over TCP, unless in the clear by policy")                                    \
  X(rpc, refuse, void *, clnt_create,                                                              \
    (const char *host, unsigned long program, unsigned long version, const char *protocol),        \
    "over TCP: EACCES")                                                                            \
  X(rpc, watch, int, getrpcport,                                                                   \
    (const char *host, unsigned long program, unsigned long version, unsigned int protocol),       \
    "its look-ups not over TCP, unless in the clear by policy")                                    \
  X(rpc, watch, int, callrpc,                                                                      \
    (const char *host, unsigned long program, unsigned long version, unsigned long procedure,      \
     void *encode, const char *request, void *decode, char *answer),                               \
    "its look-ups not over TCP, unless in the clear by policy")                                    \
  X(rpc, refuse, void *, clnttcp_create,                                                           \
    (struct sockaddr_in * address, unsigned long program, unsigned long version, int *fd,          \
     unsigned int send_size, unsigned int receive_size),                                           \
    "EACCES")                                                                                      \
  X(rpc, refuse, void *, svctcp_create,                                                            \
    (int fd, unsigned int send_size, unsigned int receive_size), "EACCES")                         \
  X(rpc, refuse, void *, svcfd_create,                                                             \
    (int fd, unsigned int send_size, unsigned int receive_size), "EACCES")                         \
  X(rpc, refuse, void *, pmap_getmaps, (struct sockaddr_in * address), "EACCES")                   \
  X(rpc, refuse, int, rtime,                                                                       \
    (struct sockaddr_in * address, void *time, struct timeval *timeout), "over TCP: EACCES")       \
  X(process, watch, void, _exit, (int status), "flushes what connections owe")                     \
  X(process, watch, void, _Exit, (int status), "flushes what connections owe")                     \
  X(process, watch, int, execve,                                                                   \
    (const char *path, char *const arguments[], char *const environment[]),                        \
    "flushes; restores the environment")                                                           \
  X(process, watch, int, execv, (const char *path, char *const arguments[]),                       \
    "flushes; restores the environment")                                                           \
  X(process, watch, int, execvp, (const char *file, char *const arguments[]),                      \
    "flushes; restores the environment")                                                           \
  X(process, watch, int, execvpe,                                                                  \
    (const char *file, char *const arguments[], char *const environment[]),                        \
    "flushes; restores the environment")                                                           \
  X(process, watch, int, execl, (const char *path, const char *argument, ...),                     \
    "flushes; restores the environment")                                                           \
  X(process, watch, int, execle, (const char *path, const char *argument, ...),                    \
    "flushes; restores the environment")                                                           \
  X(process, watch, int, execlp, (const char *file, const char *argument, ...),                    \
    "flushes; restores the environment")                                                           \
  X(process, watch, int, execveat,                                                                 \
    (int directory, const char *path, char *const arguments[], char *const environment[],          \
     int flags),                                                                                   \
    "flushes; restores the environment")                                                           \
  X(process, watch, int, fexecve, (int fd, char *const arguments[], char *const environment[]),    \
    "flushes; restores the environment")                                                           \
  X(process, watch, int, posix_spawn,                                                              \
    (pid_t * pid, const char *path, const posix_spawn_file_actions_t *actions,                     \
     const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[]),     \
    "restores the environment")                                                                    \
  X(process, watch, int, posix_spawnp,                                                             \
    (pid_t * pid, const char *file, const posix_spawn_file_actions_t *actions,                     \
     const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[]),     \
    "restores the environment")                                                                    \
  X(process, watch, int, system, (const char *command), "restores the environment")                \
  X(process, watch, int, wordexp, (const char *words, wordexp_t *result, int flags),               \
    "restores the environment")                                                                    \
  X(process, watch, int, prctl, (int option, ...), "a seccomp filter is widened, see above")       \
  X(process, watch, int, unshare, (int flags), "the helper parks")                                 \
  X(process, watch, int, setns, (int fd, int kind), "the helper parks")                            \
  X(terminals, watch, int, daemon, (int keep_folder, int keep_streams), "as fork, _exit and dup2")  \
  X(terminals, watch, int, login_tty, (int terminal), "as dup2 and close")                          \
  X(terminals, watch, int, forkpty,                                                                 \
    (int *terminal, char *name, const struct termios *settings, const struct winsize *size),        \
    "as fork, dup2 and close")                                                                      \
  X(process, watch, int, chroot, (const char *path), "log and agent are opened before")            \
  X(limits, watch, int, setrlimit, (__rlimit_resource_t resource, const struct rlimit *wanted),    \
    "the helper is started before")                                                                \
  X(limits, watch, int, setrlimit64,                                                               \
    (__rlimit_resource_t resource, const struct rlimit64 *wanted),                                 \
    "the helper is started before")                                                                \
  X(limits, watch, int, prlimit,                                                                   \
    (pid_t process, enum __rlimit_resource resource, const struct rlimit *wanted,                  \
     struct rlimit *before),                                                                       \
    "the helper is started before")                                                                \
  X(limits, watch, int, prlimit64,                                                                 \
    (pid_t process, enum __rlimit_resource resource, const struct rlimit64 *wanted,                \
     struct rlimit64 *before),                                                                     \
    "the helper is started before")                                                                \
  X(limits, watch, int, getrlimit, (__rlimit_resource_t resource, struct rlimit *limit),           \
    "RLIMIT_AS without inlay's part")                                                              \
  X(limits, watch, int, getrlimit64, (__rlimit_resource_t resource, struct rlimit64 *limit),       \
    "RLIMIT_AS without inlay's part")                                                              \
  X(clone, watch, int, clone, (int (*run)(void *), void *stack, int flags, void *argument, ...),   \
    "as fork, without CLONE_VM and CLONE_FILES")                                                   \
  X(clone, watch, int, __clone, (int (*run)(void *), void *stack, int flags, void *argument, ...), \
    "as fork, without CLONE_VM and CLONE_FILES")                                                   \
  X(syscall, protect, long, syscall, (long number, ...), "known numbers go to the hooks above")
