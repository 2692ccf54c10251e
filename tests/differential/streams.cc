// FILE and iostreams over a connection, as programs that know of nothing else use them; built
// fortified.
#ifdef __OPTIMIZE__
#undef _FORTIFY_SOURCE
#define _FORTIFY_SOURCE 2
#endif
#include <err.h>
#include <error.h>
#include <stdio_ext.h>

#include <cstdarg>
#include <cwchar>
#include <ext/stdio_filebuf.h>
#include <iostream>

#include "behaviour.h"

using namespace behaviour;

namespace {

void receive_all(int listener) {
  int fd = take(listener);
  note_rest(fd);
  close(fd);
}

// The other end's stream, line by line, answering nothing.
void send_lines(int listener) {
  int fd = take(listener);
  send_all(fd, "first line\nsecond line\n42 17 word\nrest without end " + pattern(20000, 5));
  shutdown(fd, SHUT_WR);
  note_rest(fd);
  close(fd);
}

template <typename Child>
void in_child(Child child) {
  pid_t pid = fork();
  if (pid == 0) {
    child();
    std::exit(3);  // flushes
  }
  int status = -1;
  waitpid(pid, &status, 0);
  note("status", status);
}

void reopen_at(int from, int number) {
  note("dup2", dup2(from, number));
  close(from);
}

// --- writing ---

Scenario buffering{"streams/buffering", receive_all, [](std::uint16_t port) {
                     int fd = dial(port);
                     FILE *file = fdopen(fd, "w");
                     char small[64];
                     note("setvbuf", std::setvbuf(file, small, _IOFBF, sizeof small));
                     note("fprintf", std::fprintf(file, "%d %s\n", 1, "fully buffered"));
                     note("pending", static_cast<long>(__fpending(file)));
                     note("fputs", std::fputs(pattern(1000, 2).c_str(), file) >= 0);
                     note("fflush", std::fflush(file));
                     note("pending", static_cast<long>(__fpending(file)));
                     note("setvbuf", std::setvbuf(file, nullptr, _IOLBF, 0));
                     note("fputs", std::fputs("line\nhalf", file) >= 0);
                     note("putc", putc('\n', file));
                     note("setvbuf", std::setvbuf(file, nullptr, _IONBF, 0));
                     note("fputc", std::fputc('x', file));
                     note("pending", static_cast<long>(__fpending(file)));
                     std::string large = pattern(300000, 3);
                     note("fwrite",
                          static_cast<long>(std::fwrite(large.data(), 1, large.size(), file)));
                     note("fileno", fileno(file) == fd);
                     note("fclose", std::fclose(file));
                     note("closed", fcntl(fd, F_GETFD));
                   }};

Scenario mixed{"streams/mixed-with-calls", receive_all, [](std::uint16_t port) {
                 int fd = dial(port);
                 FILE *file = fdopen(fd, "w");
                 std::fputs("by the stream ", file);
                 note("write overtakes", write(fd, "by write ", 9));
                 std::fflush(file);
                 note("dprintf", dprintf(fd, "by dprintf %d %s ", 7, "text"));
                 std::string large(3000, 'd');
                 note("long dprintf", dprintf(fd, "%s", large.c_str()));
                 note("putw", putw(0x20202020, file));
                 std::fflush(file);
                 note("send", send(fd, "by send", 7, 0));
                 note("fclose", std::fclose(file));
               }};

Scenario exiting{"streams/exit-flushes", receive_all, [](std::uint16_t port) {
                   int fd = dial(port);
                   in_child([fd] { std::fputs("left in the buffer", fdopen(fd, "w")); });
                   close(fd);
                 }};

Scenario two_streams{"streams/one-to-read-one-to-write",
                     [](int listener) {
                       int fd = take(listener);
                       FILE *in = fdopen(fd, "r"), *out = fdopen(dup(fd), "w");
                       char line[100];
                       while (std::fgets(line, sizeof line, in) != nullptr) {
                         std::fprintf(out, "echo %s", line);
                         std::fflush(out);
                       }
                       note("feof", std::feof(in) != 0);
                       note("fclose", std::fclose(out));
                       note("fclose", std::fclose(in));
                     },
                     [](std::uint16_t port) {
                       int fd = dial(port);
                       FILE *both = fdopen(fd, "r+");
                       char line[100] = "";
                       for (int i = 0; i < 3; ++i) {
                         note("fprintf", std::fprintf(both, "line %d\n", i) > 0);
                         note("fflush", std::fflush(both));
                         note("fgets", std::fgets(line, sizeof line, both) != nullptr);
                         say("line", line);
                       }
                       note("shutdown", shutdown(fileno(both), SHUT_WR));
                       note("fgetc", std::fgetc(both));
                       note("feof", std::feof(both) != 0);
                       note("fclose", std::fclose(both));
                     }};

// --- reading ---

Scenario reading{"streams/reading", send_lines, [](std::uint16_t port) {
                   int fd = dial(port);
                   FILE *file = fdopen(fd, "r");
                   note("fgetc", std::fgetc(file));
                   note("ungetc", std::ungetc('F', file));
                   note("ungetc twice", std::ungetc('G', file));
                   char *line = nullptr;
                   std::size_t room = 0;
                   note("getline", getline(&line, &room, file));
                   say("line", line);
                   note("getdelim", getdelim(&line, &room, ' ', file));
                   char text[64] = "";
                   note("fgets", std::fgets(text, 4, file) != nullptr);
                   say("text", text);
                   note("fgets", std::fgets(text, sizeof text, file) != nullptr);
                   int one = 0, other = 0;
                   note("fscanf", std::fscanf(file, "%d %d %63s", &one, &other, text));
                   note("sum", one + other);
                   say("word", text);
                   std::string rest(30000, '\0');
                   std::size_t got = std::fread(rest.data(), 1, rest.size(), file);
                   rest.resize(got);
                   note_data("fread", rest);
                   note("feof", std::feof(file) != 0);
                   note("ferror", std::ferror(file) != 0);
                   note("fgetc", std::fgetc(file));
                   std::free(line);
                   note("fclose", std::fclose(file));
                 }};

Scenario left_over{"streams/the-buffer-and-then-the-socket",
                   [](int listener) {
                     int fd = take(listener);
                     send_all(fd, "one\ntwo\n");
                     meet();
                     send_all(fd, "three\n");
                     note_rest(fd);
                   },
                   [](std::uint16_t port) {
                     int fd = dial(port);
                     FILE *file = fdopen(fd, "r");
                     char line[16] = "";
                     note("fgets", std::fgets(line, sizeof line, file) != nullptr);
                     say("line", line);
                     note("fgets", std::fgets(line, sizeof line, file) != nullptr);
                     say("line", line);
                     meet();
                     say("recv", receive_exactly(fd, 6));
                     note("fclose", std::fclose(file));
                   }};

// A stream in memory has no number, whatever its memory held before.
Scenario in_memory{"streams/in-memory-beside-standard-input",
                   [](int listener) {
                     int fd = take(listener);
                     send_all(fd, "hello");
                     note_rest(fd);
                   },
                   [](std::uint16_t port) {
                     int fd = dial(port);
                     note("dup2", dup2(fd, STDIN_FILENO));
                     close(fd);
                     char *text = nullptr;
                     std::size_t size = 0;
                     FILE *file = open_memstream(&text, &size);
                     note("fputs", std::fputs("text", file) >= 0);
                     note("fclose", std::fclose(file));
                     say("text", text);
                     std::free(text);
                     say("recv", receive_exactly(STDIN_FILENO, 5));
                     close(STDIN_FILENO);
                   }};

Scenario non_blocking{"streams/non-blocking",
                      [](int listener) {
                        int fd = take(listener);
                        meet();
                        send_all(fd, "later");
                        meet();
                        close(fd);
                      },
                      [](std::uint16_t port) {
                        int fd = dial(port);
                        FILE *file = fdopen(fd, "r");
                        make_nonblocking(fd);
                        errno = 0;
                        note("fgetc", std::fgetc(file));
                        note("ferror", std::ferror(file) != 0);
                        note("feof", std::feof(file) != 0);
                        std::clearerr(file);
                        meet();
                        int c = EOF;
                        do {
                          wait_for(fd, POLLIN);
                          std::clearerr(file);
                          c = std::fgetc(file);
                        } while (c == EOF && errno == EAGAIN);
                        note("fgetc", c);
                        meet();
                        note("fclose", std::fclose(file));
                      }};

// --- what no socket does, and errors ---

Scenario seeking{"streams/seeking", receive_all, [](std::uint16_t port) {
                   FILE *file = fdopen(dial(port), "r+");
                   note("fseek", std::fseek(file, 0, SEEK_SET));
                   note("fseek", std::fseek(file, 3, SEEK_CUR));
                   note("ftell", std::ftell(file));
                   std::fpos_t at;
                   note("fgetpos", std::fgetpos(file, &at));
                   errno = 0;
                   std::rewind(file);
                   note("rewind", errno);
                   note("fputs", std::fputs("still writes", file) >= 0);
                   note("ftell", std::ftell(file));
                   note("fclose", std::fclose(file));
                 }};

Scenario modes{"streams/modes", receive_all, [](std::uint16_t port) {
                 int fd = dial(port);
                 for (const char *mode : {"", "x", "z+", "wb", "rbe", "a"}) {
                   FILE *file = fdopen(fd, mode);
                   note(mode, file == nullptr ? -1 : 0);
                   if (file != nullptr && mode[0] == 'r') {
                     note("fputs", std::fputs("x", file));
                     note("ferror", std::ferror(file) != 0);
                   }
                 }
                 note("fdopen of none", fdopen(199, "r") == nullptr ? -1 : 0);
                 note("shutdown", shutdown(fd, SHUT_WR));
               }};

Scenario broken{"streams/the-other-end-resets",
                [](int listener) {
                  int fd = take(listener);
                  receive_exactly(fd, 5);
                  linger now{1, 0};
                  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
                  close(fd);
                  meet();
                },
                [](std::uint16_t port) {
                  signal(SIGPIPE, SIG_IGN);
                  int fd = dial(port);
                  FILE *file = fdopen(fd, "r+");
                  std::fputs("hello", file);
                  note("fflush", std::fflush(file));
                  meet();
                  wait_for(fd, POLLIN);
                  note("fgetc", std::fgetc(file));
                  note("ferror", std::ferror(file) != 0);
                  std::fputs("more", file);
                  note("fflush", std::fflush(file));
                  note("fputs", std::fputs("in the buffer", file) >= 0);
                  note("fclose", std::fclose(file));
                  note("closed", fcntl(fd, F_GETFD));
                }};

Scenario reopening{"streams/freopen", receive_all, [](std::uint16_t port) {
                     int fd = dial(port);
                     FILE *file = fdopen(fd, "w");
                     std::fputs("to the connection", file);
                     FILE *again = std::freopen("/dev/zero", "r", file);
                     note("freopen", again == file);
                     note("fileno", fileno(again) == fd);
                     note("fgetc", std::fgetc(again));
                     note("fputs", std::fputs("x", again));
                     note("freopen", std::freopen("/no/such/file", "r", again) == nullptr ? -1 : 0);
                     note("closed", fcntl(fd, F_GETFD));
                     note("fclose", std::fclose(again));
                   }};

// --- on a standard number ---

Scenario standard_output{"streams/standard-output", receive_all, [](std::uint16_t port) {
                           int fd = dial(port);
                           in_child([fd] {
                             reopen_at(fd, 1);
                             note("printf", std::printf("%s %d\n", "printed", 5));
                             note("puts", std::puts("put") >= 0);
                             note("putchar", std::putchar('c'));
                             note("fileno", fileno(stdout));
                             note("isatty", isatty(1) == 0 ? 0 : 1);
                           });
                           close(fd);
                         }};

Scenario there_and_back{"streams/standard-output-and-back", receive_all, [](std::uint16_t port) {
                          int fd = dial(port);
                          int saved = dup(1);
                          FILE *kept = stdout;
                          for (int i = 0; i < 3; ++i) {
                            dup2(fd, 1);
                            std::printf("to the connection %d\n", i);
                            std::fflush(stdout);
                            dup2(saved, 1);
                            std::printf("not to it\n");
                            note("fflush", std::fflush(stdout));
                            note("by the pointer", std::fputs("nor this\n", kept) >= 0);
                            note("fflush", std::fflush(kept));
                          }
                          close(fd);
                        }};

Scenario standard_input{"streams/standard-input", send_lines, [](std::uint16_t port) {
                          reopen_at(dial(port), 0);
                          note("getchar", std::getchar());
                          char *line = nullptr;
                          std::size_t room = 0;
                          note("getline", getline(&line, &room, stdin));
                          note("scanf", std::scanf("%*s %*s"));
                          std::free(line);
                          note("fileno", fileno(stdin));
                        }};

Scenario standard_error{"streams/standard-error", receive_all, [](std::uint16_t port) {
                          int fd = dial(port);
                          in_child([fd] {
                            reopen_at(fd, 2);
                            errno = ENOENT;
                            std::perror("perror");
                            errno = ENOENT;
                            warn("warn %d", 1);
                            warnx("warnx");
                            error(0, EACCES, "error");
                            psignal(SIGINT, "psignal");
                            std::fprintf(stderr, "in %s", "pieces");
                            err(4, "err");
                          });
                          close(fd);
                        }};

Scenario iostreams{"streams/cout-without-stdio", receive_all, [](std::uint16_t port) {
                     int fd = dial(port);
                     in_child([fd] {
                       std::ios::sync_with_stdio(false);
                       reopen_at(fd, 1);
                       std::cout << "cout " << 12 << std::endl << pattern(5000, 9);
                       note("good", std::cout.good());
                     });
                     close(fd);
                   }};

Scenario filebuf{"streams/stdio-filebuf",
                 [](int listener) {
                   int fd = take(listener);
                   send_all(fd, "words of\nthe other end\n");
                   note_rest(fd);
                 },
                 [](std::uint16_t port) {
                   int fd = dial(port);
                   __gnu_cxx::stdio_filebuf<char> buffer(fd, std::ios::in | std::ios::out);
                   std::iostream stream(&buffer);
                   std::string line;
                   note("getline", static_cast<bool>(std::getline(stream, line)));
                   say("line", line);
                   note("getline", static_cast<bool>(std::getline(stream, line)));
                   stream.clear();
                   stream << "an answer" << std::flush;
                   note("good", stream.good());
                 }};

Scenario command{"streams/popen-on-standard-output", receive_all, [](std::uint16_t port) {
                   int fd = dial(port);
                   in_child([fd] {
                     reopen_at(fd, 1);
                     FILE *pipe = popen("cat", "w");
                     std::fputs("through a command\n", pipe);
                     note("pclose", pclose(pipe));
                     std::fflush(stdout);
                     note("system", std::system("echo from a shell"));
                   });
                   close(fd);
                 }};

// --- a pointer from before ---

Scenario kept{"streams/cout-from-before", receive_all, [](std::uint16_t port) {
                int fd = dial(port);
                in_child([fd] {
                  reopen_at(fd, 1);
                  std::cout << "by the pointer that stdout was" << std::flush;
                  note("good", std::cout.good());
                });
                close(fd);
              }};

}  // namespace
