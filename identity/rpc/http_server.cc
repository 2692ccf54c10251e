#include "identity/rpc/http_server.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "identity/rpc/tls_relay.h"
#include "identity/rpc/worker.h"
#include "policy/trusted_file.h"

namespace inlay::identity::rpc {
namespace {

constexpr std::size_t kMostWaiting = 128;  // requests, of each worker
constexpr std::size_t kRead = 16 * 1024;

std::string_view phrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 411:
      return "Length Required";
    case 413:
      return "Content Too Large";
    case 414:
      return "URI Too Long";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 503:
      return "Service Unavailable";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Internal Server Error";
  }
}

std::string written(const HttpAnswer &answer, bool head_alone) {
  std::string out =
      fmt::format("HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n", answer.status,
                  phrase(answer.status), answer.type, answer.body.size());
  for (const auto &[name, value] : answer.headers) out += fmt::format("{}: {}\r\n", name, value);
  out += "Cache-Control: no-store\r\nConnection: close\r\n\r\n";
  if (!head_alone) out += answer.body;
  return out;
}

struct Connection {
  enum class Stage : std::uint8_t { reading, working, writing };

  policy::UniqueFd fd;
  std::shared_ptr<const PeerIdentity> peer;
  std::int64_t deadline = 0;  // milliseconds of the monotonic clock
  Stage stage = Stage::reading;
  std::string request;
  std::string answer;  // what is left of it

  short awaited() const {
    return stage == Stage::reading ? POLLIN : stage == Stage::writing ? POLLOUT : 0;
  }
  // A request may hold a password.
  ~Connection() { OPENSSL_cleanse(request.data(), request.size()); }
};

}  // namespace

HttpAnswer http_sentence(int status, std::string_view sentence) {
  return {.status = status, .body = std::string(sentence) + "\n"};
}

struct HttpServer::State {
  HttpServerSettings settings;
  Host host;
  policy::UniqueFd wake{::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};

  std::mutex mutex;
  std::vector<std::shared_ptr<Connection>> fresh;
  std::map<std::uint64_t, std::string> done;  // answers, by the number of their connection
  bool ending = false;

  // The thread's.
  std::map<std::uint64_t, std::shared_ptr<Connection>> connections;
  std::uint64_t next_number = 0;

  std::unique_ptr<TlsServer> tls;
  std::array<Worker, 4> workers{Worker(kMostWaiting), Worker(kMostWaiting), Worker(kMostWaiting),
                                Worker(kMostWaiting)};
  std::thread thread;

  std::int64_t patience() const { return std::int64_t{settings.request_seconds} * 1000; }
  void adopt(int fd, const std::shared_ptr<const PeerIdentity> &peer);
  void run();
  bool take_news();
  // False: the connection is over.
  bool move(std::uint64_t number, Connection &connection);
  bool read(std::uint64_t number, Connection &connection);
  void work(std::uint64_t number, Connection &connection, HttpRequest request);
  static bool write(Connection &connection);
  void say(Connection &connection, std::string answer) const;
};

void HttpServer::State::adopt(int fd, const std::shared_ptr<const PeerIdentity> &peer) {
  auto connection = std::make_shared<Connection>();
  connection->fd = policy::UniqueFd(fd);
  connection->peer = peer;
  connection->deadline = monotonic_ms() + patience();
  {
    const std::lock_guard lock(mutex);
    fresh.push_back(std::move(connection));
  }
  ::eventfd_write(wake.get(), 1);
}

void HttpServer::State::say(Connection &connection, std::string answer) const {
  connection.answer = std::move(answer);
  connection.stage = Connection::Stage::writing;
  connection.deadline = monotonic_ms() + patience();
}

bool HttpServer::State::take_news() {
  eventfd_t ignored = 0;
  ::eventfd_read(wake.get(), &ignored);
  const std::lock_guard lock(mutex);
  if (ending) return false;
  for (auto &connection : fresh) connections.emplace(next_number++, std::move(connection));
  fresh.clear();
  for (auto &[number, answer] : done) {
    const auto found = connections.find(number);
    if (found != connections.end()) say(*found->second, std::move(answer));
  }
  done.clear();
  return true;
}

void HttpServer::State::work(std::uint64_t number, Connection &connection, HttpRequest request) {
  request.peer = connection.peer;
  connection.stage = Connection::Stage::working;
  const bool taken =
      workers[number % workers.size()].give([this, number, request = std::move(request)] {
        std::string answer = written(host.answer(request), request.method == "HEAD");
        {
          const std::lock_guard lock(mutex);
          done.emplace(number, std::move(answer));
        }
        ::eventfd_write(wake.get(), 1);
      });
  if (!taken) say(connection, written(http_sentence(503, "too many requests; come again"), false));
}

bool HttpServer::State::read(std::uint64_t number, Connection &connection) {
  char buffer[kRead];
  const ssize_t got = ::recv(connection.fd.get(), buffer, sizeof buffer, 0);
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  if (got == 0) return false;
  connection.request.append(buffer, static_cast<std::size_t>(got));
  OPENSSL_cleanse(buffer, static_cast<std::size_t>(got));
  auto request = read_http_request(connection.request);
  if (!request) return true;
  if (*request) {
    work(number, connection, std::move(**request));
    return true;
  }
  const HttpProblem &problem = request->error();
  if (host.refused) host.refused(connection.peer->address, "HTTP: " + problem.message);
  say(connection, written(http_sentence(problem.status, problem.message), false));
  return true;
}

bool HttpServer::State::write(Connection &connection) {
  const ssize_t sent =
      ::send(connection.fd.get(), connection.answer.data(), connection.answer.size(), MSG_NOSIGNAL);
  if (sent < 0) return errno == EAGAIN || errno == EINTR;
  connection.answer.erase(0, static_cast<std::size_t>(sent));
  return !connection.answer.empty();
}

bool HttpServer::State::move(std::uint64_t number, Connection &connection) {
  switch (connection.stage) {
    case Connection::Stage::reading:
      return read(number, connection);
    case Connection::Stage::working:
      return false;  // the other end has gone
    case Connection::Stage::writing:
      return write(connection);
  }
  return false;
}

void HttpServer::State::run() {
  std::vector<pollfd> polled;
  std::vector<std::uint64_t> numbers;
  while (take_news()) {
    const std::int64_t now = monotonic_ms();
    std::erase_if(connections, [&](const auto &it) {
      return it.second->stage != Connection::Stage::working && it.second->deadline <= now;
    });
    polled.assign(1, {wake.get(), POLLIN, 0});
    numbers.assign(1, 0);
    std::int64_t first = now + 3'600'000;
    for (const auto &[number, connection] : connections) {
      polled.push_back({connection->fd.get(), connection->awaited(), 0});
      numbers.push_back(number);
      if (connection->stage != Connection::Stage::working) {
        first = std::min(first, connection->deadline);
      }
    }
    if (::poll(polled.data(), polled.size(), static_cast<int>(first - now) + 1) < 0) continue;
    for (std::size_t at = 1; at < polled.size(); ++at) {
      if (polled[at].revents == 0) continue;
      const auto found = connections.find(numbers[at]);
      if (!move(numbers[at], *found->second)) connections.erase(found);
    }
  }
}

HttpServer::HttpServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

HttpServer::~HttpServer() {
  state_->tls.reset();  // nothing new
  {
    const std::lock_guard lock(state_->mutex);
    state_->ending = true;
  }
  ::eventfd_write(state_->wake.get(), 1);
  if (state_->thread.joinable()) state_->thread.join();
  for (Worker &worker : state_->workers) worker.end();
}

tl::expected<std::unique_ptr<HttpServer>, std::string> HttpServer::listen(
    HttpServerSettings settings, Host host, const TlsCredentials &own) {
  auto state = std::make_unique<State>();
  state->settings = std::move(settings);
  state->host = std::move(host);
  State *const it = state.get();
  auto tls = TlsServer::listen({.listen = it->settings.listen,
                                .connections = it->settings.connections,
                                .connections_of_an_address = it->settings.connections_of_an_address,
                                .application = Application::http,
                                .ask_client = it->settings.ask_client},
                               {.bundles = it->host.bundles,
                                .now = it->host.now,
                                .adopt = [it](int fd, const auto &peer) { it->adopt(fd, peer); },
                                .refused = it->host.refused},
                               own);
  if (!tls) return tl::unexpected(tls.error());
  it->tls = std::move(*tls);
  it->thread = std::thread([it] { it->run(); });
  it->tls->start();
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(state)));
}

std::vector<std::string> HttpServer::addresses() const { return state_->tls->addresses(); }

tl::expected<void, std::string> HttpServer::use(const TlsCredentials &own) {
  return state_->tls->use(own);
}

}  // namespace inlay::identity::rpc
