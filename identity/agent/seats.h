// How many connections there may be, in all and of one user. Those that have not been attested (no
// process with an entry behind them) are few, and the oldest gives way to the newest: whoever opens
// thousands keeps nobody else out. Of the attached, whose user has the most gives way, the newest
// first: what was there before a flood stays.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>

namespace inlay::identity::agent {

struct SeatLimits {
  std::size_t waiting = 1024;  // not attested
  std::size_t waiting_of_a_user = 256;
  std::size_t attached = 4096;
  std::size_t attached_of_a_user = 2048;

  // What `descriptors` are enough for: each attached connection has two, one for its process.
  static SeatLimits of(std::size_t descriptors) noexcept;
};

class Seats {
 public:
  using Id = std::uint64_t;  // of a connection; later ones are greater
  explicit Seats(SeatLimits limits) : limits_(limits) {}

  // A new connection waits. What is returned has to go for it, by leave().
  std::optional<Id> come(Id id, uid_t user);
  struct Attached {
    bool taken = false;         // it waits no more; else there are too many, and it still waits
    std::optional<Id> surplus;  // has to go for it, by leave()
  };
  Attached attach(Id id);
  void leave(Id id);
  // The one that has waited longest; empty when none does.
  std::optional<Id> oldest_waiting() const;
  std::size_t attached() const { return attached_; }

 private:
  struct User {
    std::set<Id> waiting;
    std::set<Id> attached;
  };
  struct Seat {
    uid_t user = 0;
    bool attached = false;
  };

  const SeatLimits limits_;
  std::map<Id, Seat> seats_;
  std::map<uid_t, User> users_;
  std::set<Id> waiting_;
  std::size_t attached_ = 0;
};

}  // namespace inlay::identity::agent
