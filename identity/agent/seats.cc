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

Seats::Attached Seats::attach(Id id) {
  auto found = seats_.find(id);
  if (found == seats_.end()) return {};
  if (found->second.attached) return {.taken = true, .surplus = {}};
  User &user = users_[found->second.user];
  if (user.attached.size() >= limits_.attached_of_a_user) return {};
  std::optional<Id> surplus;
  if (attached_ >= limits_.attached) {
    const auto &most = std::ranges::max_element(users_, {}, [](const auto &each) {
                         return each.second.attached.size();
                       })->second;
    // What only changes who has the most is no gain.
    if (most.attached.size() <= user.attached.size() + 1) return {};
    surplus = *most.attached.rbegin();
  }
  user.attached.insert(id);
  user.waiting.erase(id);
  waiting_.erase(id);
  ++attached_;
  found->second.attached = true;
  return {.taken = true, .surplus = surplus};
}

void Seats::leave(Id id) {
  auto found = seats_.find(id);
  if (found == seats_.end()) return;
  auto user = users_.find(found->second.user);
  if (found->second.attached) {
    user->second.attached.erase(id);
    --attached_;
  } else {
    user->second.waiting.erase(id);
    waiting_.erase(id);
  }
  if (user->second.waiting.empty() && user->second.attached.empty()) users_.erase(user);
  seats_.erase(found);
}

std::optional<Seats::Id> Seats::oldest_waiting() const {
  return waiting_.empty() ? std::nullopt : std::optional(*waiting_.begin());
}

}  // namespace inlay::identity::agent
