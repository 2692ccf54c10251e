// The thread between the Workload API's clients and gRPC: it passes bytes on unchanged as long as
// the police has nothing against it.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "identity/agent/workload.h"
#include "identity/rpc/http2_police.h"
#include "policy/trusted_file.h"

namespace inlay::identity::agent {

class ApiRelay {
 public:
  using CutOff = std::function<void(const Caller &, std::string_view why)>;
  explicit ApiRelay(CutOff cut_off);  // told of whoever the police cuts off, on the relay's thread
  ~ApiRelay();
  ApiRelay(const ApiRelay &) = delete;
  ApiRelay &operator=(const ApiRelay &) = delete;

  // Both ends non-blocking. False when there is no thread to be had. Any thread.
  bool add(std::shared_ptr<const policy::UniqueFd> client, policy::UniqueFd server,
           const Caller &caller, std::unique_ptr<rpc::Http2Police> police);

 private:
  struct Pair {
    std::shared_ptr<const policy::UniqueFd> client;
    policy::UniqueFd server;
    Caller caller;
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

  const CutOff cut_off_;
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
