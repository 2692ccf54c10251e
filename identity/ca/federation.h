// Fetches the bundles of other trust domains from their bundle endpoints (SPIFFE Federation §5) and
// keeps them in the store, from where agents get them whose entries federate with those domains.
#pragma once

#include <atomic>
#include <condition_variable>
#include <ctime>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <tl/expected.hpp>
#include <vector>

#include "identity/ca/audit_log.h"
#include "identity/ca/store.h"
#include "identity/ca/web_settings.h"
#include "identity/trust_domain_bundle.h"

namespace inlay::identity::ca {

class Federation {
 public:
  struct Host {
    Store &store;  // outlives this, as what the others refer to
    std::function<void(const AuditRecord &)> audit;
    std::function<void(const std::string &problem)> note;
  };

  // A thread for each: one endpoint that is slow keeps no other waiting. Servers that share a store
  // may all do this.
  Federation(std::vector<FederationSettings> settings, Host host);
  ~Federation();
  Federation(const Federation &) = delete;
  Federation &operator=(const Federation &) = delete;

 private:
  void follow(const FederationSettings &from);

  const std::vector<FederationSettings> settings_;
  const Host host_;
  std::atomic<bool> ending_ = false;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> threads_;
};

// What the endpoint gives now. https_spiffe is judged by the bundle in the store where there is
// one, else by that of the file. The error is one line. Waits.
tl::expected<TrustDomainBundle, std::string> fetch_bundle(
    const FederationSettings &from, const Store &store, std::time_t now,
    const std::atomic<bool> *ending = nullptr);

// A document of `trust_domain`, or what is wrong with it as one.
tl::expected<TrustDomainBundle, std::string> judge_fetched_bundle(std::string_view document,
                                                                  std::string_view trust_domain);

// Seconds until the next: what the document asks for, from a minute to a day, or after `failures`
// in a row from one second up to five minutes; 10 % more or less by `chance` (0 to 1).
std::time_t fetch_interval(std::uint32_t refresh_hint, int failures, double chance);

}  // namespace inlay::identity::ca
