// Who a caller is, now: what the kernel says of its process, and the entry that this matches.
#pragma once

#include <memory>
#include <mutex>

#include "identity/agent/config.h"
#include "identity/agent/entry.h"
#include "identity/agent/executable_digest.h"
#include "identity/agent/workload.h"

namespace inlay::identity::agent {

struct Attestation {
  Workload workload;  // as far as it is known
  std::shared_ptr<const Config> config;
  const Entry *entry = nullptr;  // of `config`; null: `refused` says why
  Refused refused;
};

class Attestor {
 public:
  explicit Attestor(std::shared_ptr<const Config> config) : config_(std::move(config)) {}

  // What is in force from now on. Any thread, as all here.
  void use(std::shared_ptr<const Config> config);
  std::shared_ptr<const Config> config() const;

  // `pidfd`: as examine() takes it.
  Attestation attest(const Caller &caller, int pidfd = -1);
  // What it would be, had it executed the program at `path` (absolute).
  Attestation attest_as(const Caller &caller, int pidfd, const std::string &path);
  // For those who may know: JSON of what is known of the process and of all entries' selectors.
  tl::expected<std::string, std::string> explain_json(pid_t pid);

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const Config> config_;
  ExecutableDigests digests_;
};

}  // namespace inlay::identity::agent
