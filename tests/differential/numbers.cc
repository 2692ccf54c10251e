// Which numbers descriptors get: the lowest that are free, whatever else goes on in the process.
#include "behaviour.h"

using namespace behaviour;

namespace {

constexpr int kConnections = 25;
constexpr int kFirst = 400;  // whose closing frees no low number

void echo_a_byte_each(int listener) {
  for (int i = 0; i <= kConnections; ++i) {
    int fd = take(listener);
    char c = 0;
    if (recv(fd, &c, 1, 0) != 1 || send(fd, &c, 1, 0) != 1) note("lost", i);
    recv(fd, &c, 1, 0);
    close(fd);
  }
}

int at_high_number(int low, int number) {
  int fd = dup2(low, number);
  close(low);
  return fd;
}

bool exchange_a_byte(int fd) {
  char c = 'x';
  return send(fd, &c, 1, 0) == 1 && recv(fd, &c, 1, 0) == 1;
}

// Opens and closes a file as fast as it can.
class Opener {
 public:
  Opener()
      : lowest_(dup(STDIN_FILENO)), thread_([this] {
          while (!over_) {
            int fd = open("/dev/null", O_RDONLY);
            if (fd != lowest_) ++others_;
            close(fd);
            ++rounds_;
            sched_yield();  // the handshakes need the processor
          }
        }) {
    close(lowest_);
    while (rounds_ == 0) sched_yield();
  }
  int others() {
    over_ = true;
    thread_.join();
    return others_;
  }

 private:
  int lowest_;
  std::atomic<bool> over_{false};
  std::atomic<int> rounds_{0};
  int others_ = 0;
  std::thread thread_;
};

Scenario connecting{"numbers/while-another-thread-connects", echo_a_byte_each,
                    [](std::uint16_t port) {
                      int first = at_high_number(dial(port), kFirst);
                      note("exchanged", exchange_a_byte(first));
                      int fds[kConnections];
                      for (int &fd : fds) {
                        fd = at_high_number(socket(AF_INET, SOCK_STREAM, 0),
                                            kFirst + 1 + static_cast<int>(&fd - fds));
                      }
                      Opener opener;
                      sockaddr_in address = address_of(port);
                      int good = 0;
                      // The server serves them one after another.
                      close(first);
                      for (int fd : fds) {
                        good += connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0 &&
                                exchange_a_byte(fd);
                        close(fd);
                      }
                      note("good", good);
                      note("other numbers", opener.others());
                    }};

}  // namespace
