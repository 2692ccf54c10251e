// What the authority signs and hands out by, now: the keys, the bundles, the CRLs of one generation
// of the store. Swapped whole when the store changes, by whichever server or command that was.
#pragma once

#include <condition_variable>
#include <ctime>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "identity/bundle.h"
#include "identity/ca/rotation.h"
#include "identity/ca/seal.h"
#include "identity/ca/signer.h"
#include "identity/ca/store.h"

namespace inlay::identity::ca {

struct InForce {
  Signer signer;
  std::vector<std::string> crls;               // DER
  std::time_t crls_until = 0;                  // when the first of them becomes stale
  std::map<std::string, std::string> bundles;  // SPIFFE JSON by trust domain, the own one too
  std::shared_ptr<const BundleSet> trusted;    // for TLS
};

struct InForceSettings {
  RotationSettings rotation;
  UpstreamFiles upstream;
  std::time_t crl_lifetime = 3600;  // seconds; made anew at half of it
};

class InForceKeeper {
 public:
  using Note = std::function<void(const std::string &problem)>;

  // Makes what is missing (rotation.h) and takes what is there. The error is one line. `note` is
  // told, once each, what goes wrong later: the last good one stays then. Any thread.
  static tl::expected<std::unique_ptr<InForceKeeper>, std::string> open(Store &store,
                                                                        const Seal &seal,
                                                                        InForceSettings settings,
                                                                        Note note);
  ~InForceKeeper();
  InForceKeeper(const InForceKeeper &) = delete;
  InForceKeeper &operator=(const InForceKeeper &) = delete;

  std::shared_ptr<const InForce> now() const;
  // A thread that looks once a second, and calls `changed` after each change and once a minute.
  void start(std::function<void()> changed);
  // Ends that thread. now() still answers.
  void stop();
  // Looks now. True when something is new.
  tl::expected<bool, std::string> look(std::time_t now);

 private:
  InForceKeeper(Store &store, const Seal &seal, InForceSettings settings, Note note)
      : store_(store), seal_(seal), settings_(std::move(settings)), note_(std::move(note)) {}
  tl::expected<std::shared_ptr<const InForce>, std::string> load(std::uint64_t generation,
                                                                 std::time_t now);
  void run();
  tl::expected<bool, std::string> renew(std::time_t now);
  void name_what_ends(std::time_t now);

  Store &store_;
  const Seal &seal_;
  const InForceSettings settings_;
  const Note note_;
  std::time_t maintained_at_ = 0;
  std::string problem_;  // the last one told
  int ending_step_ = 0;  // of what an administrator must replace: the last one told
  std::function<void()> changed_;

  mutable std::mutex mutex_;
  std::shared_ptr<const InForce> in_force_;
  bool ending_ = false;
  std::condition_variable wake_;
  std::thread thread_;
};

}  // namespace inlay::identity::ca
