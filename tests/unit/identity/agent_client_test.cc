#include "identity/agent_client.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <thread>

using namespace inlay::identity;
namespace fs = std::filesystem;

namespace {

// A socket at which somebody answers one connection as `serve` does.
class Listener {
 public:
  explicit Listener(std::function<void(int)> serve = {}, const std::string &name = "agent.sock") {
    std::string pattern = (fs::temp_directory_path() / "inlay-client-XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    folder = pattern;
    path = folder + "/" + name;
    fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    REQUIRE(bind(fd_, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0);
    REQUIRE(listen(fd_, 4) == 0);
    if (!serve) return;
    thread_ = std::thread([this, serve] {
      const int one = accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC);
      if (one < 0) return;
      serve(one);
      close(one);
    });
  }
  ~Listener() {
    shutdown(fd_, SHUT_RDWR);
    if (thread_.joinable()) thread_.join();
    close(fd_);
    fs::remove_all(folder);
  }

  std::string folder, path;

 private:
  int fd_;
  std::thread thread_;
};

AgentHeader read_request(int fd, std::string *bytes = nullptr) {
  AgentHeader header{};
  if (recv(fd, &header, sizeof header, MSG_WAITALL) != sizeof header) return {};
  std::string rest(header.length, '\0');
  if (!rest.empty()) recv(fd, rest.data(), rest.size(), MSG_WAITALL);
  if (bytes != nullptr) *bytes = rest;
  return header;
}

std::string frame(AgentFrame kind, std::uint32_t request, const std::string &bytes = "") {
  AgentHeader header;
  header.frame = kind;
  header.request = request;
  header.length = static_cast<std::uint32_t>(bytes.size());
  return std::string(reinterpret_cast<const char *>(&header), sizeof header) + bytes;
}

void put(int fd, const std::string &bytes) { send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL); }

std::string refusal(AgentRefusal refused, const std::string &text) {
  const RefusedAnswer answer{refused, 0};
  return std::string(reinterpret_cast<const char *>(&answer), sizeof answer) + text;
}

tl::expected<AgentAnswer, AgentFailure> ask(const Listener &listener,
                                            std::chrono::milliseconds timeout) {
  auto client = AgentClient::connect({listener.path}, timeout);
  REQUIRE(client);
  return client->ask(AgentFrame::status, "");
}

constexpr std::chrono::milliseconds kPatience = std::chrono::minutes(1);

}  // namespace

TEST_CASE("a request is answered, whatever news come in between") {
  Listener listener([](int fd) {
    std::string bytes;
    const AgentHeader first = read_request(fd, &bytes);
    put(fd, frame(AgentFrame::unchanged, 0) + frame(AgentFrame::text, 77, "late") +
                frame(AgentFrame::text, first.request, "you said " + bytes));
    const AgentHeader second = read_request(fd);
    // In pieces.
    for (const char byte : frame(AgentFrame::text, second.request, "again")) {
      put(fd, std::string(1, byte));
    }
  });
  auto client = AgentClient::connect({listener.path}, kPatience);
  REQUIRE(client);
  const auto answer = client->ask(AgentFrame::probe, "/bin/true");
  REQUIRE(answer);
  CHECK(answer->frame == AgentFrame::text);
  CHECK(answer->bytes == "you said /bin/true");
  CHECK(answer->fd == -1);
  const auto again = client->ask(AgentFrame::status, "");
  REQUIRE(again);
  CHECK(again->bytes == "again");
}

TEST_CASE("a descriptor comes with its answer, close-on-exec") {
  Listener listener([](int fd) {
    const AgentHeader header = read_request(fd);
    const std::string text = frame(AgentFrame::snapshot, header.request, std::string(16, 'x'));
    const int memory = memfd_create("snapshot", MFD_CLOEXEC);
    iovec part{const_cast<char *>(text.data()), text.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr *const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(rights), &memory, sizeof memory);
    sendmsg(fd, &message, MSG_NOSIGNAL);
    close(memory);
  });
  const auto answer = ask(listener, kPatience);
  REQUIRE(answer);
  REQUIRE(answer->fd >= 0);
  CHECK(fcntl(answer->fd, F_GETFD) == FD_CLOEXEC);
  CHECK(fcntl(answer->fd, F_GET_SEALS) >= 0);
}

TEST_CASE("a refusal says which and why") {
  Listener listener([](int fd) {
    put(fd, frame(AgentFrame::refused, read_request(fd).request,
                  refusal(AgentRefusal::no_entry, "no entry matches\nthis process")));
  });
  const auto answer = ask(listener, kPatience);
  REQUIRE_FALSE(answer);
  CHECK(answer.error().kind == AgentFailureKind::refused);
  CHECK(answer.error().refusal == AgentRefusal::no_entry);
  CHECK(answer.error().message.find("no entry matches") != std::string::npos);
  CHECK(answer.error().message.find('\n') == std::string::npos);
}

TEST_CASE("T67 whoever answers something else, or hangs up, is told from who does not answer") {
  struct Row {
    const char *name;
    std::function<std::string(std::uint32_t)> answer;
  };
  const auto header = [](std::function<void(AgentHeader &)> change) {
    return [change](std::uint32_t request) {
      AgentHeader head;
      head.frame = AgentFrame::text;
      head.request = request;
      change(head);
      return std::string(reinterpret_cast<const char *>(&head), sizeof head);
    };
  };
  const Row rows[] = {
      {"nothing", [](std::uint32_t) { return std::string(); }},
      {"half a header", [](std::uint32_t it) { return frame(AgentFrame::text, it).substr(0, 9); }},
      {"half an answer",
       [](std::uint32_t it) { return frame(AgentFrame::text, it, "hello").substr(0, 18); }},
      {"HTTP", [](std::uint32_t) { return std::string("HTTP/1.1 400 Bad Request\r\n\r\n"); }},
      {"another version", header([](AgentHeader &it) { it.version = 2; })},
      {"a request", header([](AgentHeader &it) { it.frame = AgentFrame::sign; })},
      {"100 MB", header([](AgentHeader &it) { it.length = 100u << 20; })},
      {"a refusal without its kind",
       header([](AgentHeader &it) { it.frame = AgentFrame::refused; })},
  };
  for (const Row &row : rows) {
    CAPTURE(row.name);
    Listener listener([&](int fd) { put(fd, row.answer(read_request(fd).request)); });
    const auto answer = ask(listener, kPatience);
    REQUIRE_FALSE(answer);
    CHECK(answer.error().kind == AgentFailureKind::broken);
    CHECK(answer.error().message.find(listener.path) != std::string::npos);
  }
  Listener silent;  // its backlog accepts, nobody else does
  const auto answer = ask(silent, std::chrono::milliseconds(1));
  REQUIRE_FALSE(answer);
  CHECK(answer.error().kind == AgentFailureKind::silent);
}

TEST_CASE("T67 a socket that others could have put there is not used") {
  struct Row {
    const char *name;
    std::function<std::string(const Listener &)> path;
    const char *complaint;
  };
  const Row rows[] = {
      {"a folder for all to write",
       [](const Listener &it) {
         REQUIRE(chmod(it.folder.c_str(), 0777) == 0);
         return it.path;
       },
       "others may write"},
      {"a symbolic link",
       [](const Listener &it) {
         fs::create_symlink(it.path, it.folder + "/link.sock");
         return it.folder + "/link.sock";
       },
       "symbolic link"},
      {"another's folder",
       [](const Listener &it) {
         if (geteuid() == 0) REQUIRE(chown(it.folder.c_str(), 12345, 0) == 0);
         return it.path;
       },
       "folder of uid 12345"},
      {"another's socket",
       [](const Listener &it) {
         if (geteuid() == 0) REQUIRE(chown(it.path.c_str(), 12345, 0) == 0);
         return it.path;
       },
       "belongs to uid 12345"},
  };
  for (const Row &row : rows) {
    CAPTURE(row.name);
    if (geteuid() != 0 && std::string(row.name).starts_with("another")) continue;
    const Listener listener;
    // It is not passed over for the next one either.
    const Listener good;
    const auto client = AgentClient::connect({row.path(listener), good.path});
    REQUIRE_FALSE(client);
    CHECK(client.error().kind == AgentFailureKind::untrusted);
    CHECK(client.error().message.find(row.complaint) != std::string::npos);
  }
}

TEST_CASE("T67 another user who listens is not asked, even at a path that looks right") {
  if (geteuid() != 0) return;  // only root can become somebody
  std::string pattern = (fs::temp_directory_path() / "inlay-client-XXXXXX").string();
  REQUIRE(mkdtemp(pattern.data()) != nullptr);
  const std::string path = pattern + "/agent.sock";
  int ready[2], done[2];
  REQUIRE(pipe(ready) == 0);
  REQUIRE(pipe(done) == 0);
  REQUIRE(chmod(pattern.c_str(), 0777) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (setuid(12345) != 0 ||
        bind(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0 ||
        listen(fd, 1) != 0 || write(ready[1], "x", 1) != 1) {
      _exit(1);
    }
    close(done[1]);
    char byte;
    (void)!read(done[0], &byte, 1);
    _exit(0);
  }
  close(ready[1]);
  char byte;
  REQUIRE(read(ready[0], &byte, 1) == 1);
  REQUIRE(chmod(pattern.c_str(), 0755) == 0);
  REQUIRE(chown(path.c_str(), 0, 0) == 0);
  const auto client = AgentClient::connect({path});
  REQUIRE_FALSE(client);
  CHECK(client.error().kind == AgentFailureKind::untrusted);
  CHECK(client.error().message.find("uid 12345 listens") != std::string::npos);
  for (const int fd : {ready[0], done[0], done[1]}) close(fd);
  waitpid(child, nullptr, 0);
  fs::remove_all(pattern);
}

TEST_CASE("without an agent the message names every place that was looked at") {
  const Listener good;
  const auto none = AgentClient::connect({"/nonexistent/agent.sock", good.folder + "/none"});
  REQUIRE_FALSE(none);
  CHECK(none.error().kind == AgentFailureKind::absent);
  CHECK(none.error().message.find("/nonexistent/agent.sock: No such file") != std::string::npos);
  CHECK(none.error().message.find(good.folder + "/none") != std::string::npos);
  const auto second = AgentClient::connect({"/nonexistent/agent.sock", good.path});
  REQUIRE(second);
  CHECK(second->path() == good.path);
  CHECK_FALSE(AgentClient::connect({"/" + std::string(200, 'a')}));
}
