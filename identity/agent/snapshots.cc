#include "identity/agent/snapshots.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U  // Linux 6.3
#endif

namespace inlay::identity::agent {
namespace {

using policy::UniqueFd;

tl::expected<UniqueFd, std::string> seal(const std::string &block) {
  auto failed = [](const char *what) {
    return tl::unexpected(fmt::format("{}: errno {}", what, errno));
  };
  // Where vm.memfd_noexec is 2 there is no memfd without MFD_NOEXEC_SEAL.
  constexpr char kName[] = "inlay-agent-snapshot";
  UniqueFd fd(memfd_create(kName, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL));
  if (!fd && errno == EINVAL) fd = UniqueFd(memfd_create(kName, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return failed("memfd_create");
  for (std::size_t done = 0; done < block.size();) {
    const ssize_t written = write(fd.get(), block.data() + done, block.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return failed("writing a memfd");
    done += static_cast<std::size_t>(written);
  }
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0) {
    return failed("sealing a memfd");
  }
  return fd;
}

AgentSnapshot content_of(const Entry &entry, const View &view) {
  AgentSnapshot out;
  if (entry.policy) out.policy = *entry.policy;
  out.why_no_svid = why_no_svid(view, entry.id.uri(), std::time(nullptr));
  auto found = view.identities.find(entry.id.uri());
  if (out.why_no_svid.empty() && found != view.identities.end() && found->second.current) {
    out.svid = found->second.current->chain;
  }
  for (const auto &[domain, bundle] : view.trust.bundles) {
    out.bundles[domain] = bundle.x509_authorities;
  }
  out.crls = view.trust.crls;
  return out;
}

}  // namespace

Snapshots::Snapshots() {
  // Never 0, which says "nothing yet".
  while (epoch_ == 0 && getrandom(&epoch_, sizeof epoch_, 0) != sizeof epoch_) {
  }
}

tl::expected<Snapshots::Offer, std::string> Snapshots::offer(const Entry &entry, const View &view,
                                                             const SnapshotAnswer &known) {
  std::lock_guard lock(mutex_);
  Made &made = made_[{entry.id.uri(), entry.policy_file}];
  if (made.generation == 0 || made.view_generation < view.generation ||
      made.policy != entry.policy) {
    AgentSnapshot content = content_of(entry, view);
    if (made.generation == 0 || content != made.content) {
      auto sealed = seal(serialize(content));
      if (!sealed) return tl::unexpected(sealed.error());
      made.sealed = *std::move(sealed);
      made.generation = ++last_generation_;
      made.svid_expires = 0;
      if (!content.svid.empty()) {
        made.svid_expires = view.identities.find(entry.id.uri())->second.current->svid.not_after;
      }
      made.content = std::move(content);
    }
    made.view_generation = view.generation;
    made.policy = entry.policy;
  }
  Offer out{.answer = {.epoch = epoch_, .generation = made.generation},
            .svid_expires = made.svid_expires,
            .fd = UniqueFd()};
  if (known.epoch == epoch_ && known.generation == made.generation) return out;
  out.fd = UniqueFd(
      open(fmt::format("/proc/self/fd/{}", made.sealed.get()).c_str(), O_RDONLY | O_CLOEXEC));
  if (!out.fd)
    return tl::unexpected(fmt::format("no descriptor for the snapshot: errno {}", errno));
  return out;
}

}  // namespace inlay::identity::agent
