// The agent's end of its socket: connections, their frames, their bounds. What is asked is answered
// by a Service on other threads, one request of a connection at a time.
//
//   accepted --first byte 'P'--> the Workload API's, with its descriptor
//      | first byte 'I'
//   reading --a frame--> busy (not read from) --answer--> writing --all of it--> reading
//
// Cut off are: a first byte of neither, anything FrameReader calls broken, a frame not whole in
// time after its first byte, an answer not taken in that time, and silence of whoever has not
// attached.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "identity/agent/frame_reader.h"
#include "identity/agent/listener.h"
#include "identity/agent/seats.h"
#include "identity/agent/work_queue.h"

namespace inlay::identity::agent {

struct Request {
  std::uint64_t connection = 0;
  IncomingFrame frame;
};

struct Reply {
  AgentFrame frame{};
  std::string bytes;
  policy::UniqueFd fd;    // goes with the frame; may be empty
  bool attached = false;  // the connection gets news from now on
};

// What a server stands on. answer(), news() and ended() are called on its working threads and its
// own; none may throw.
class Service {
 public:
  virtual ~Service() = default;
  virtual Reply answer(Request request) = 0;
  // For an attached connection, after changed().
  struct News {
    std::optional<Reply> reply;  // empty: nothing has changed for it
    bool end = false;            // the connection is to be closed
  };
  virtual News news(std::uint64_t connection) = 0;
  // Too many are attached: what answer() has attached is not.
  virtual Reply not_attached(std::uint64_t connection) = 0;
  virtual void ended(std::uint64_t connection) = 0;
  // A connection of the Workload API, from which nothing was read yet.
  virtual void adopt(policy::UniqueFd connection, const Caller &peer) = 0;
  virtual void cut_off(const Caller &peer, AgentRefusal refusal, std::string_view why) = 0;
};

// How long it waits for others.
struct Patience {
  // For a frame to be whole, or an answer to be taken.
  std::chrono::nanoseconds frame = std::chrono::seconds(5);
  // Of whoever has had an answer and has not attached.
  std::chrono::nanoseconds silence = std::chrono::seconds(60);
};

class Server {
 public:
  Server(Listener &listener, Service &service, SeatLimits limits, std::size_t threads,
         Patience patience = {});
  ~Server();
  Server(const Server &) = delete;
  Server &operator=(const Server &) = delete;

  // `handle` is called by run() whenever `fd` is readable. Before run().
  void watch(int fd, std::function<void()> handle);
  // Called by run() this often; for the watchdog. Before run().
  void every(std::int64_t milliseconds, std::function<void()> handle);
  // Until stop(). Then every connection is closed.
  void run();
  // Any thread, signal handlers excepted.
  void stop();
  // Attached connections are asked what is new for them. Any thread.
  void changed();
  // Does `job` on a working thread. Any thread.
  void work(uid_t user, std::function<void()> job) { queue_.give(user, std::move(job)); }

 private:
  struct Connection {
    std::uint64_t id = 0;
    policy::UniqueFd fd;
    Caller peer;
    FrameReader reader;
    std::string out;
    std::size_t sent = 0;
    policy::UniqueFd out_fd;
    std::int64_t deadline_ns = 0;  // 0 = none
    std::uint32_t events = 0;      // of epoll
    bool sniffed = false;
    bool busy = false;
    bool attached = false;
    bool news_due = false;
  };
  struct Done {
    std::uint64_t connection = 0;
    std::uint32_t request = 0;
    std::optional<Reply> reply;
    bool end = false;
  };

  void accept_some();
  bool accept_without_descriptors();
  void adopt(policy::UniqueFd fd);
  void attend(Connection &connection, std::uint32_t events);
  bool sniff(Connection &connection);
  void read(Connection &connection);
  void ask(Connection &connection, IncomingFrame frame);
  void ask_for_news(Connection &connection);
  void send(Connection &connection, std::uint32_t request, Reply reply);
  bool write(Connection &connection);
  void settle(Connection &connection);
  void cut(Connection &connection, AgentRefusal refusal, std::string_view why);
  void close(std::uint64_t id);
  void set_deadline(Connection &connection, std::int64_t at_ns);
  void give(Connection &connection, uid_t user, std::uint32_t request,
            std::function<void(Done &)> job);
  void take(Connection &connection, Done what);
  void take_done();
  void expire(std::int64_t now_ns);
  int timeout(std::int64_t now_ns) const;

  Listener &listener_;
  Service &service_;
  const Patience patience_;
  policy::UniqueFd epoll_, wake_, spare_;
  Seats seats_;
  std::map<std::uint64_t, std::unique_ptr<Connection>> connections_;
  std::set<std::pair<std::int64_t, std::uint64_t>> deadlines_;
  std::map<int, std::function<void()>> watched_;
  std::uint64_t last_id_ = 0;
  std::int64_t accept_again_ns_ = 0;  // 0: accepting
  std::int64_t period_ns_ = 0, period_due_ns_ = 0;
  std::function<void()> periodic_;

  std::mutex mutex_;
  std::list<Done> done_;  // guarded by mutex_
  std::atomic<bool> stopping_{false}, changed_{false};
  WorkQueue queue_;  // last: its threads end first
};

}  // namespace inlay::identity::agent
