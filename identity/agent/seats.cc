#include "identity/agent/seats.h"

#include <algorithm>

namespace inlay::identity::agent {

SeatLimits SeatLimits::of(std::size_t descriptors) noexcept {
  constexpr std::size_t kOwn = 64;  // logs, sources, metrics, threads
  const std::size_t usable = descriptors > 2 * kOwn ? descriptors - kOwn : kOwn;
  SeatLimits out;
  out.waiting = std::clamp<std::size_t>(usable / 8, 8, 1024);
  out.waiting_of_a_user = std::max<std::size_t>(out.waiting / 4, 4);
  out.attached = std::clamp<std::size_t>(usable / 4, 8, 65536);
  out.attached_of_a_user = std::max<std::size_t>(out.attached / 2, 4);
  return out;
}

std::optional<Seats::Id> Seats::come(Id id, uid_t user) {
  User &of_user = users_[user];
  seats_[id] = {.user = user};
  of_user.waiting.insert(id);
  waiting_.insert(id);
  if (of_user.waiting.size() > limits_.waiting_of_a_user) return *of_user.waiting.begin();
  if (waiting_.size() > limits_.waiting) return *waiting_.begin();
  return std::nullopt;
}

bool Seats::attach(Id id) {
  auto found = seats_.find(id);
  if (found == seats_.end()) return false;
  if (found->second.attached) return true;
  User &user = users_[found->second.user];
  if (attached_ >= limits_.attached || user.attached >= limits_.attached_of_a_user) return false;
  user.waiting.erase(id);
  waiting_.erase(id);
  ++user.attached;
  ++attached_;
  return found->second.attached = true;
}

void Seats::leave(Id id) {
  auto found = seats_.find(id);
  if (found == seats_.end()) return;
  auto user = users_.find(found->second.user);
  if (found->second.attached) {
    --user->second.attached;
    --attached_;
  } else {
    user->second.waiting.erase(id);
    waiting_.erase(id);
  }
  if (user->second.waiting.empty() && user->second.attached == 0) users_.erase(user);
  seats_.erase(found);
}

std::optional<Seats::Id> Seats::oldest_waiting() const {
  return waiting_.empty() ? std::nullopt : std::optional(*waiting_.begin());
}

}  // namespace inlay::identity::agent
