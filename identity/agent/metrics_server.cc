#include "identity/agent/metrics_server.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <list>
#include <string_view>
#include <thread>
#include <vector>

#include "policy/trusted_file.h"

namespace inlay::identity::agent {
namespace {

using policy::UniqueFd;
using Clock = std::chrono::steady_clock;

// A scraper needs one connection; a few, for whoever looks by hand.
constexpr std::size_t kMostConnections = 16;
constexpr std::size_t kMostRequestBytes = 4096;
constexpr int kAcceptPause = 50;                      // milliseconds
constexpr auto kPatience = std::chrono::seconds(10);  // for all of a request and its answer
constexpr std::string_view kUnix = "unix://";

struct Address {
  std::string path;  // of a Unix socket; else the other two
  sockaddr_storage internet{};
  socklen_t length = 0;
};

tl::expected<Address, std::string> parse_address(const std::string &text) {
  Address address;
  if (text.starts_with(kUnix)) {
    address.path = text.substr(kUnix.size());
    if (address.path.empty() || address.path.front() != '/' ||
        address.path.size() >= sizeof(sockaddr_un::sun_path)) {
      return tl::unexpected(
          std::string("is no absolute path of a socket, as unix:///run/inlay/metrics.sock"));
    }
    return address;
  }
  const auto wrong = [] {
    return tl::unexpected(std::string(
        "is neither unix:///PATH nor a loopback address with its port, as 127.0.0.1:9464"));
  };
  const std::size_t colon = text.rfind(':');
  if (colon == text.npos) return wrong();
  std::uint16_t port = 0;
  const char *const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data() + colon + 1, end, port);
  if (error != std::errc() || stopped != end || colon + 1 == text.size()) return wrong();
  const std::string host = text.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    auto *const six = reinterpret_cast<sockaddr_in6 *>(&address.internet);
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(port);
    address.length = sizeof *six;
    const std::string inner = host.substr(1, host.size() - 2);
    if (inet_pton(AF_INET6, inner.c_str(), &six->sin6_addr) != 1) return wrong();
    if (!IN6_IS_ADDR_LOOPBACK(&six->sin6_addr)) return wrong();
    return address;
  }
  auto *const four = reinterpret_cast<sockaddr_in *>(&address.internet);
  four->sin_family = AF_INET;
  four->sin_port = htons(port);
  address.length = sizeof *four;
  if (inet_pton(AF_INET, host.c_str(), &four->sin_addr) != 1) return wrong();
  // What others may read is a decision for whoever puts a proxy in front.
  if (ntohl(four->sin_addr.s_addr) >> 24 != 127) return wrong();
  return address;
}

std::string reason(int error) {
  const char *const text = strerrordesc_np(error);
  return text != nullptr ? text : fmt::format("error {}", error);
}

// A socket that an agent before this one left behind is taken away; one that is in use is not.
void remove_left_behind(const sockaddr_un &address) {
  struct stat status {};
  if (lstat(address.sun_path, &status) != 0 || !S_ISSOCK(status.st_mode) ||
      status.st_uid != geteuid()) {
    return;
  }
  const UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (connect(probe.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address) != 0 &&
      errno == ECONNREFUSED) {
    unlink(address.sun_path);
  }
}

tl::expected<UniqueFd, std::string> listen_at(const Address &address) {
  const int family = address.path.empty() ? address.internet.ss_family : AF_UNIX;
  UniqueFd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return tl::unexpected(reason(errno));
  int result = 0;
  if (family == AF_UNIX) {
    sockaddr_un path{};
    path.sun_family = AF_UNIX;
    std::memcpy(path.sun_path, address.path.data(), address.path.size());
    remove_left_behind(path);
    // bind(2) gives the path the descriptor's mode: it is never open to all, not even for a moment.
    fchmod(fd.get(), 0660);
    result = bind(fd.get(), reinterpret_cast<const sockaddr *>(&path), sizeof path);
  } else {
    const int on = 1;
    setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    result = bind(fd.get(), reinterpret_cast<const sockaddr *>(&address.internet), address.length);
  }
  if (result != 0 || listen(fd.get(), 8) != 0) return tl::unexpected(reason(errno));
  return fd;
}

std::string response(std::string_view status, std::string_view body, std::string_view more = "") {
  return fmt::format(
      "HTTP/1.1 {}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
      "Content-Length: {}\r\n{}Connection: close\r\n\r\n{}",
      status, body.size(), more, body);
}

// One request, one answer.
struct Connection {
  UniqueFd fd;
  Clock::time_point deadline;
  std::string request;
  std::string answer;  // what is left of it; "" while the request is being read
};

std::string answer_to(std::string_view request, const std::function<std::string()> &text) {
  const std::string_view line = request.substr(0, request.find("\r\n"));
  const std::size_t first = line.find(' '), last = line.rfind(' ');
  if (first == line.npos || first == last || !line.substr(last + 1).starts_with("HTTP/1.")) {
    return response("400 Bad Request", "this is HTTP/1.1\n");
  }
  if (line.substr(0, first) != "GET") {
    return response("405 Method Not Allowed", "only GET /metrics\n", "Allow: GET\r\n");
  }
  const std::string_view target = line.substr(first + 1, last - first - 1);
  if (target.substr(0, target.find('?')) != "/metrics") {
    return response("404 Not Found", "only GET /metrics\n");
  }
  return response("200 OK", text());
}

// False when the connection is done with.
bool serve(Connection &one, const std::function<std::string()> &text) {
  char buffer[1024];
  while (one.answer.empty()) {
    const ssize_t got = recv(one.fd.get(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) return false;
    one.request.append(buffer, static_cast<std::size_t>(got));
    if (one.request.find("\r\n\r\n") != std::string::npos) {
      one.answer = answer_to(one.request, text);
    } else if (one.request.size() > kMostRequestBytes) {
      one.answer = response("431 Request Header Fields Too Large", "too large\n");
    }
  }
  while (!one.answer.empty()) {
    const ssize_t put =
        send(one.fd.get(), one.answer.data(), one.answer.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (put < 0) return errno == EAGAIN || errno == EINTR;
    one.answer.erase(0, static_cast<std::size_t>(put));
    if (one.answer.empty()) return false;
  }
  return true;
}

}  // namespace

struct MetricsServer::State {
  UniqueFd listener, woken;
  std::string path;  // of a Unix socket
  std::string address;
  std::function<std::string()> text;
  std::atomic<bool> ending{false};
  std::thread thread;

  void run();
  bool accept_all(std::list<Connection> &connections) const;
};

// False when the kernel has no descriptor or memory for those who wait.
bool MetricsServer::State::accept_all(std::list<Connection> &connections) const {
  for (;;) {
    UniqueFd fd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
    // Who holds connections open without asking makes room for those who come.
    if (connections.size() >= kMostConnections) connections.pop_front();
    connections.push_back({std::move(fd), Clock::now() + kPatience, {}, {}});
  }
}

void MetricsServer::State::run() {
  std::list<Connection> connections;
  std::vector<pollfd> waited;
  bool accepting = true;
  while (!ending) {
    const short listening = accepting ? POLLIN : 0;
    waited.assign({{listener.get(), listening, 0}, {woken.get(), POLLIN, 0}});
    for (const Connection &one : connections) {
      const short events = one.answer.empty() ? POLLIN : POLLOUT;
      waited.push_back({one.fd.get(), events, 0});
    }
    const int wait = !accepting ? kAcceptPause : connections.empty() ? -1 : 1000;
    poll(waited.data(), waited.size(), wait);
    std::size_t at = 2;
    for (auto one = connections.begin(); one != connections.end(); ++at) {
      const bool ready = waited[at].revents != 0;
      const bool keep = (!ready || serve(*one, text)) && Clock::now() < one->deadline;
      one = keep ? std::next(one) : connections.erase(one);
    }
    accepting = waited[0].revents == 0 || accept_all(connections);
  }
}

MetricsServer::MetricsServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

MetricsServer::~MetricsServer() {
  state_->ending = true;
  const std::uint64_t one = 1;
  (void)!write(state_->woken.get(), &one, sizeof one);
  if (state_->thread.joinable()) state_->thread.join();
  if (!state_->path.empty()) unlink(state_->path.c_str());
}

tl::expected<std::unique_ptr<MetricsServer>, std::string> MetricsServer::start(
    const std::string &listen, std::function<std::string()> text) {
  const auto address = parse_address(listen);
  if (!address) return tl::unexpected(fmt::format("\"{}\" {}", listen, address.error()));
  auto fd = listen_at(*address);
  if (!fd) {
    return tl::unexpected(
        fmt::format("cannot serve metrics at {}: {}; choose another place under "
                    "[metrics]",
                    listen, fd.error()));
  }
  auto state = std::make_unique<State>();
  state->listener = std::move(*fd);
  state->woken = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!state->woken) return tl::unexpected(reason(errno));
  state->path = address->path;
  state->address = listen;
  if (address->path.empty()) {
    sockaddr_storage bound{};
    socklen_t length = sizeof bound;
    getsockname(state->listener.get(), reinterpret_cast<sockaddr *>(&bound), &length);
    const std::uint16_t port = bound.ss_family == AF_INET6
                                   ? reinterpret_cast<sockaddr_in6 *>(&bound)->sin6_port
                                   : reinterpret_cast<sockaddr_in *>(&bound)->sin_port;
    state->address = fmt::format("{}:{}", listen.substr(0, listen.rfind(':')), ntohs(port));
  }
  state->text = std::move(text);
  State *const running = state.get();
  std::unique_ptr<MetricsServer> server(new MetricsServer(std::move(state)));
  running->thread = std::thread([running] { running->run(); });
  return server;
}

std::string MetricsServer::address() const { return state_->address; }

std::string listen_address_complaint(const std::string &listen) {
  const auto address = parse_address(listen);
  return address ? "" : fmt::format("\"{}\" {}", listen, address.error());
}

}  // namespace inlay::identity::agent
