// Serves the metrics over HTTP/1.1 on a Unix socket or on loopback: GET /metrics and nothing else,
// on a thread of its own that no number of slow readers can grow.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <tl/expected.hpp>

namespace inlay::identity::agent {

class MetricsServer {
 public:
  // `listen`: "unix:///run/inlay/metrics.sock" or a loopback address and port, "127.0.0.1:9464",
  // "[::1]:9464"; port 0 takes a free one. `text` is called on the server's thread. The error is
  // one line: what is wrong and what to do.
  static tl::expected<std::unique_ptr<MetricsServer>, std::string> start(
      const std::string &listen, std::function<std::string()> text);
  ~MetricsServer();
  MetricsServer(const MetricsServer &) = delete;
  MetricsServer &operator=(const MetricsServer &) = delete;

  std::string address() const;  // with the port that was taken

 private:
  struct State;
  explicit MetricsServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// What is wrong with such an address, "" when nothing: for the configuration's loader.
std::string listen_address_complaint(const std::string &listen);

}  // namespace inlay::identity::agent
