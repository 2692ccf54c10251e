#include "tools/resolve.h"

#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <ctime>
#include <iterator>
#include <memory>
#include <set>

namespace inlay::tools {
namespace {

std::int64_t monotonic_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

// Requests and all they point to, at addresses that stay.
struct Lookup {
  explicit Lookup(const std::set<std::string> &wanted)
      : names(wanted.begin(), wanted.end()), requests(names.size()) {
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    for (std::size_t i = 0; i < names.size(); ++i) {
      requests[i].ar_name = names[i].c_str();
      requests[i].ar_request = &hints;
    }
  }
  std::vector<std::string> names;
  std::vector<gaicb> requests;
  addrinfo hints{};
};

bool pending(const gaicb *request) {
  return ::gai_error(const_cast<gaicb *>(request)) == EAI_INPROGRESS;
}

void collect(const std::string &name, const addrinfo *answers, Resolved &into) {
  bool any = false;
  for (const addrinfo *answer = answers; answer != nullptr; answer = answer->ai_next) {
    auto endpoint = policy::Endpoint::from_sockaddr(answer->ai_addr, answer->ai_addrlen);
    if (!endpoint) continue;
    into.pairs.emplace_back(name, endpoint->address);
    any = true;
  }
  if (!any) into.unknown.push_back(name);
}

}  // namespace

Resolved resolve_names(const policy::Policy &policy, int seconds) {
  std::set<std::string> names;
  for (const auto &rule : policy.outbound) names.insert(rule.names.begin(), rule.names.end());
  Resolved resolved;
  if (names.empty()) return resolved;

  auto lookup = std::make_unique<Lookup>(names);
  std::vector<gaicb *> list;
  for (gaicb &request : lookup->requests) list.push_back(&request);
  std::int64_t deadline = monotonic_ms() + std::int64_t{seconds} * 1000;
  if (::getaddrinfo_a(GAI_NOWAIT, list.data(), static_cast<int>(list.size()), nullptr) != 0) {
    resolved.unknown.assign(names.begin(), names.end());
    return resolved;
  }
  while (std::any_of(list.begin(), list.end(), pending)) {
    std::int64_t left = deadline - monotonic_ms();
    if (left <= 0) break;
    timespec wait = {left / 1000, (left % 1000) * 1'000'000};
    std::vector<const gaicb *> open;
    std::copy_if(list.begin(), list.end(), std::back_inserter(open), pending);
    if (open.empty()) break;
    ::gai_suspend(open.data(), static_cast<int>(open.size()), &wait);
  }
  bool late = false;
  for (gaicb *request : list) {
    int error = ::gai_error(request);
    late = late || error == EAI_INPROGRESS;
    collect(request->ar_name, error == 0 ? request->ar_result : nullptr, resolved);
    if (error == 0) ::freeaddrinfo(request->ar_result);
  }
  // What is still under way goes on using its request until the exec that follows ends it.
  if (late) static_cast<void>(lookup.release());
  return resolved;
}

}  // namespace inlay::tools
