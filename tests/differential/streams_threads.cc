// Streams over a connection, several threads, and the locks of the C library between them.
#include <stdio_ext.h>

#include "behaviour.h"

using namespace behaviour;

namespace {

// More than socket buffers hold.
constexpr std::size_t kMuch = 24 << 20;

// fflush(NULL) waits on the connection with the lock of the C library's list of streams, which
// fork() takes.
Scenario flushing_all{"streams/fork-while-flushing-all",
                      [](int listener) {
                        meet();
                        note_rest(take(listener));
                      },
                      [](std::uint16_t port) {
                        FILE *file = fdopen(dial(port), "w");
                        std::string room(kMuch + 1, 0), bytes = pattern(kMuch);
                        note("setvbuf", std::setvbuf(file, room.data(), _IOFBF, room.size()));
                        note("fwrite", static_cast<long>(std::fwrite(bytes.data(), 1, kMuch, file)));
                        Worker flusher("flusher", [] { note("fflush", std::fflush(nullptr)); });
                        flusher.await_blocked();
                        Worker forker("forker", [] {
                          pid_t child = fork();
                          if (child == 0) _exit(0);
                          int status = -1;
                          waitpid(child, &status, 0);
                          note("child", status);
                        });
                        forker.await_blocked();
                        meet();
                        flusher.join();
                        forker.join();
                        note("fclose", std::fclose(file));
                      }};

std::atomic<int> g_reader{0};

void *read_a_line(void *stream) {
  char line[64];
  g_reader = gettid();
  std::fgets(line, sizeof line, static_cast<FILE *>(stream));
  return nullptr;
}

FILE *with_a_reader(std::uint16_t port) {
  FILE *file = fdopen(dial(port), "r+");
  pthread_t reader;
  if (pthread_create(&reader, nullptr, read_a_line, file) != 0) _exit(95);
  await_asleep(g_reader);
  return file;
}

Scenario exit_while_reading{"streams/exit-while-another-thread-reads",
                            [](int listener) { note_rest(take(listener)); },
                            [](std::uint16_t port) {
                              with_a_reader(port);
                              std::exit(7);
                            }};

}  // namespace
