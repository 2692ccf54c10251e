// The thread between the Workload API's clients and gRPC: it passes bytes on unchanged as long as
// the police has nothing against it.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "identity/rpc/http2_police.h"
#include "policy/trusted_file.h"

namespace inlay::identity::agent {

class ApiRelay {
 public:
  ApiRelay();
  ~ApiRelay();
  ApiRelay(const ApiRelay &) = delete;
  ApiRelay &operator=(const ApiRelay &) = delete;

  // Both ends non-blocking. False when there is no thread to be had. Any thread.
  bool add(policy::UniqueFd client, policy::UniqueFd server, std::unique_ptr<rpc::Http2Police> police);

 private:
  struct Pair {
    policy::UniqueFd client;
    policy::UniqueFd server;
    std::unique_ptr<rpc::Http2Police> police;
    // What one end has sent and the other not taken: nothing is read from the one meanwhile.
    std::string to_server;
    std::string to_client;
    bool server_ended = false;
    ~Pair();
  };

  void run();
  void watch(Pair &pair);
  bool pass(Pair &pair);  // false: it is over
  bool pass(Pair &pair, int from, int to, std::string &waiting, bool from_client);

  const policy::UniqueFd epoll_;
  const policy::UniqueFd wake_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Pair>> fresh_;
  bool ending_ = false;
  std::map<Pair *, std::unique_ptr<Pair>> pairs_;  // the thread's
  std::unique_ptr<char[]> buffer_;
  std::thread thread_;
};

}  // namespace inlay::identity::agent
