#include "identity/agent/server.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <thread>

#include "tests/unit/policy/temporary_folder.h"

using namespace inlay::identity::agent;
using inlay::identity::AgentFrame;
using inlay::identity::AgentHeader;
using inlay::policy::UniqueFd;
using inlay::policy::sample::TemporaryFolder;

namespace {

// Answers all that is asked, and holds what is asked while it is told to.
class Answers : public Service {
 public:
  Reply answer(Request request) override {
    std::unique_lock lock(mutex_);
    users_.push_back(request.frame.writer ? request.frame.writer->uid : 0);
    changed_.notify_all();
    changed_.wait(lock, [this] { return !held_; });
    return Reply{.frame = AgentFrame::text,
                 .bytes = "answer",
                 .fd = UniqueFd(),
                 .attached = request.frame.header.frame == AgentFrame::attach};
  }
  News news(std::uint64_t) override { return {}; }
  Reply not_attached(std::uint64_t) override {
    return Reply{.frame = {}, .bytes = {}, .fd = UniqueFd()};
  }
  void ended(std::uint64_t) override {}
  void adopt(UniqueFd, const Caller &) override {}
  void cut_off(const Caller &, inlay::identity::AgentRefusal, std::string_view why) override {
    std::lock_guard lock(mutex_);
    cut_.emplace_back(why);
  }
  void hold(bool held) {
    std::lock_guard lock(mutex_);
    held_ = held;
    changed_.notify_all();
  }
  void until_asked(std::size_t times) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return users_.size() >= times; });
  }

  // Who asked, in the order of their turns.
  std::vector<uid_t> users() {
    std::lock_guard lock(mutex_);
    return users_;
  }
  std::vector<std::string> cut() {
    std::lock_guard lock(mutex_);
    return cut_;
  }

 private:
  std::mutex mutex_;
  std::vector<uid_t> users_;
  std::vector<std::string> cut_;
  std::condition_variable changed_;
  bool held_ = false;
};

// No number is left from here to the end.
class NoDescriptors {
 public:
  NoDescriptors() {
    REQUIRE(getrlimit(RLIMIT_NOFILE, &before_) == 0);
    const rlimit few{100, before_.rlim_max};
    REQUIRE(setrlimit(RLIMIT_NOFILE, &few) == 0);
    for (int fd; (fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0;) rest_.emplace_back(fd);
    REQUIRE(errno == EMFILE);
  }
  ~NoDescriptors() { setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
  std::vector<UniqueFd> rest_;
};

class Running {
 public:
  explicit Running(Patience patience = {})
      : server_(listener_, answers, {}, 1, patience), thread_([this] { server_.run(); }) {}
  ~Running() {
    answers.hold(false);
    server_.stop();
    thread_.join();
  }

  UniqueFd connect() const {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    connect(fd.get());
    return fd;
  }
  void connect(int fd) const {
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    std::strcpy(address.sun_path, socket_.c_str());
    REQUIRE(::connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0);
  }

  Answers answers;

 private:
  TemporaryFolder folder_;
  const std::string socket_ = folder_ / "agent.sock";
  Listener listener_ = *Listener::open(socket_);
  Server server_;
  std::thread thread_;
};

// As a process of that user would write it.
void ask(int fd, AgentFrame frame, uid_t user) {
  AgentHeader header{.frame = frame, .request = 1};
  iovec part{&header, sizeof header};
  const ucred who{.pid = getpid(), .uid = user, .gid = 0};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof who)] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr *item = CMSG_FIRSTHDR(&message);
  item->cmsg_level = SOL_SOCKET;
  item->cmsg_type = SCM_CREDENTIALS;
  item->cmsg_len = CMSG_LEN(sizeof who);
  std::memcpy(CMSG_DATA(item), &who, sizeof who);
  REQUIRE(sendmsg(fd, &message, MSG_NOSIGNAL) == ssize_t{sizeof header});
}

std::string receive(int fd) {
  char answer[sizeof(AgentHeader) + 6];
  const ssize_t got = recv(fd, answer, sizeof answer, MSG_WAITALL);
  return got == ssize_t{sizeof answer} ? std::string(answer + sizeof(AgentHeader), 6)
                                       : std::to_string(got);
}

bool ended(int fd) {
  char byte;
  return recv(fd, &byte, 1, 0) <= 0;  // a reset, where something was not read
}

// Whatever was readable before is read, and in its queue: what is sent now comes a round later.
void let_it_read(const Running &agent) {
  UniqueFd fd = agent.connect();
  REQUIRE(::send(fd.get(), "x", 1, 0) == 1);  // of no protocol
  REQUIRE(ended(fd.get()));
}

}  // namespace

TEST_CASE("who has an answer, has not attached and is silent is cut off; who has attached is not") {
  Running agent(Patience{.silence = std::chrono::milliseconds(1)});
  UniqueFd attached = agent.connect();
  ask(attached.get(), AgentFrame::attach, getuid());
  CHECK(receive(attached.get()) == "answer");
  UniqueFd silent = agent.connect();
  ask(silent.get(), AgentFrame::probe, getuid());
  CHECK(receive(silent.get()) == "answer");
  CHECK(ended(silent.get()));
  ask(attached.get(), AgentFrame::probe, getuid());
  CHECK(receive(attached.get()) == "answer");
  CHECK(agent.answers.cut().empty());  // nothing wrong with silence
}

TEST_CASE("a request waits for its writer's turn, whoever has connected") {
  if (getuid() != 0) return;  // to write as another
  constexpr uid_t kAlice = 41001, kBob = 41002;
  Running agent;
  agent.answers.hold(true);
  UniqueFd first = agent.connect(), second = agent.connect(), third = agent.connect(),
           others = agent.connect();
  ask(first.get(), AgentFrame::probe, kAlice);
  agent.answers.until_asked(1);
  for (const UniqueFd *fd : {&second, &third}) {
    ask(fd->get(), AgentFrame::probe, kAlice);
    let_it_read(agent);
  }
  ask(others.get(), AgentFrame::probe, kBob);
  let_it_read(agent);
  agent.answers.hold(false);
  for (const UniqueFd *fd : {&first, &second, &third, &others}) {
    CHECK(receive(fd->get()) == "answer");
  }
  // Bob's comes before the last of those that Alice had waiting.
  const auto users = agent.answers.users();
  REQUIRE(users.size() == 4);
  CHECK(users.back() == kAlice);
}

TEST_CASE("T66 without descriptors those who have waited longest make room for a newcomer") {
  Running agent;
  UniqueFd attached = agent.connect();
  ask(attached.get(), AgentFrame::attach, getuid());
  CHECK(receive(attached.get()) == "answer");
  std::vector<UniqueFd> waiting;
  for (int i = 0; i < 10; ++i) waiting.push_back(agent.connect());
  let_it_read(agent);
  UniqueFd newcomer(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const NoDescriptors none;
  agent.connect(newcomer.get());
  ask(newcomer.get(), AgentFrame::probe, getuid());
  CHECK(receive(newcomer.get()) == "answer");
  for (std::size_t i = 0; i < 8; ++i) CHECK(ended(waiting[i].get()));
  const auto cut = agent.answers.cut();
  CHECK(std::ranges::count(cut, "no descriptor is left") == 8);
  for (const UniqueFd *fd : {&attached, &waiting[8], &waiting[9]}) {
    ask(fd->get(), AgentFrame::probe, getuid());
    CHECK(receive(fd->get()) == "answer");
  }
}

TEST_CASE("T66 without descriptors, and nobody who waits, a newcomer is sent away") {
  Running agent;
  UniqueFd attached = agent.connect();
  ask(attached.get(), AgentFrame::attach, getuid());
  CHECK(receive(attached.get()) == "answer");
  UniqueFd newcomer(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const NoDescriptors none;
  agent.connect(newcomer.get());
  CHECK(ended(newcomer.get()));
  CHECK(agent.answers.cut() == std::vector<std::string>{"no descriptor is left"});
}
