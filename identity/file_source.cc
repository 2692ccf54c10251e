// How a change is taken in, by refresh():
//
//   look at every path -> same stamps as last time, all settled, last load good: nothing to do
//                      -> else load, and look again: stamps changed meanwhile -> load again, a few
//                         times, so that a set caught half-swapped is read whole
//   load good, other bytes than before -> a new generation
//   load good, same bytes              -> no change
//   load bad                           -> the last good set stays; every refresh tries again
//
// A failed load is tried again even when no file changed since: what was wrong may be outside the
// files (the clock, a group, a folder's permissions). There is no inotify: it would cost a
// descriptor in somebody else's process, and it watches inodes, which symlink swaps go round.
#include "identity/file_source.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <ctime>
#include <map>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "identity/certificate.h"
#include "identity/crl.h"
#include "identity/file.h"
#include "identity/memory.h"
#include "identity/verify.h"

namespace inlay::identity {
namespace {

constexpr std::size_t kMaxSvidBytes = std::size_t{1} << 18;
constexpr std::size_t kMaxKeyBytes = std::size_t{1} << 16;
constexpr std::size_t kMaxBundleBytes = std::size_t{1} << 22;
constexpr int kLoadAttempts = 4;

using Digest = std::array<unsigned char, 32>;
using DigestContextPtr = std::unique_ptr<EVP_MD_CTX, OpensslDelete<EVP_MD_CTX_free>>;
using DigestAlgorithmPtr = std::unique_ptr<EVP_MD, OpensslDelete<EVP_MD_free>>;

// SHA-256 over all files read: tells a touched file from a changed one, and keeps no key.
class Fingerprint {
 public:
  Fingerprint()
      : algorithm_(EVP_MD_fetch(library_context(), "SHA256", nullptr)), context_(EVP_MD_CTX_new()) {
    good_ = algorithm_ && context_ &&
            EVP_DigestInit_ex2(context_.get(), algorithm_.get(), nullptr) == 1;
  }
  void add(std::string_view bytes) {
    const std::size_t length = bytes.size();
    good_ = good_ && EVP_DigestUpdate(context_.get(), &length, sizeof length) == 1 &&
            EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1;
  }
  // False when OpenSSL failed on the way.
  bool finish(Digest &digest) {
    return good_ && EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr) == 1;
  }

 private:
  DigestAlgorithmPtr algorithm_;
  DigestContextPtr context_;
  bool good_ = false;
};

// Files read before they are needed, by path.
struct Remembered {
  FileContent content;
  std::string complaint;  // of key_permission_complaint(), for the process as it was
};
using Memory = std::map<std::string, Remembered, std::less<>>;

// Where the files' bytes come from: the files, or what is remembered of those that cannot be read.
class Reader {
 public:
  explicit Reader(const Memory *memory) : memory_(memory) {}
  tl::expected<const FileContent *, SourceError> read(std::string_view what,
                                                      const std::string &path, std::size_t limit);
  std::string key_complaint(const std::string &path) const;
  // Why the memory had to be asked; empty when it had not.
  const std::string &first_error() const { return first_error_; }

  Fingerprint fingerprint;

 private:
  const Memory *memory_;  // may be null
  std::string first_error_;
  std::map<std::string, FileContent, std::less<>> read_now_;
};

struct Loaded {
  Material material;
  Digest digest{};
};

tl::unexpected<SourceError> error(std::string message) {
  return tl::unexpected(SourceError{std::move(message)});
}

tl::expected<const FileContent *, SourceError> Reader::read(std::string_view what,
                                                            const std::string &path,
                                                            std::size_t limit) {
  auto content = read_file(path, limit);
  if (content) return &read_now_.try_emplace(path, std::move(*content)).first->second;
  std::string complaint = fmt::format(
      "cannot read the {} {}: {}; make it readable for uid {} or correct the path in [identity]",
      what, path, content.error(), geteuid());
  if (memory_ != nullptr) {
    if (auto kept = memory_->find(path); kept != memory_->end()) {
      if (first_error_.empty()) first_error_ = std::move(complaint);
      return &kept->second.content;
    }
  }
  return error(std::move(complaint));
}

std::string Reader::key_complaint(const std::string &path) const {
  if (auto now = read_now_.find(path); now != read_now_.end()) {
    return key_permission_complaint(now->second.status);
  }
  return memory_->find(path)->second.complaint;
}

tl::expected<Bundle, SourceError> load_bundle(const std::string &trust_domain,
                                              const std::string &path, Reader &reader) {
  const auto content = reader.read("trust bundle", path, kMaxBundleBytes);
  if (!content) return tl::unexpected(content.error());
  reader.fingerprint.add(trust_domain);
  reader.fingerprint.add((*content)->bytes);
  auto bundle = parse_bundle((*content)->bytes);
  if (bundle) return std::move(*bundle);
  return error(fmt::format("the trust bundle {} of {} is not usable: {}; fetch it anew", path,
                           trust_domain, bundle.error().message));
}

tl::expected<void, SourceError> check_svid(const X509Svid &svid, const FilePaths &paths,
                                           std::time_t now) {
  if (svid.id.trust_domain() != paths.trust_domain) {
    return error(
        fmt::format("the SVID {} is {}, which is not of the trust domain {}; correct "
                    "trust_domain or issue an SVID of it",
                    paths.svid, svid.id.uri(), paths.trust_domain));
  }
  if (svid.not_after < now) {
    return error(fmt::format("the SVID {} ({}) expired at {}; issue a new one", paths.svid,
                             svid.id.uri(), time_text(svid.not_after)));
  }
  if (svid.not_before > now + kNotBeforeSlack) {
    return error(fmt::format("the SVID {} ({}) is valid from {} on; set the clock or wait",
                             paths.svid, svid.id.uri(), time_text(svid.not_before)));
  }
  return {};
}

tl::expected<X509Svid, SourceError> load_svid(const FilePaths &paths, Reader &reader) {
  const auto chain = reader.read("SVID", paths.svid, kMaxSvidBytes);
  if (!chain) return tl::unexpected(chain.error());
  const auto key = reader.read("private key", paths.key, kMaxKeyBytes);
  if (!key) return tl::unexpected(key.error());
  if (const std::string complaint = reader.key_complaint(paths.key); !complaint.empty()) {
    return error(fmt::format("the private key {} {}", paths.key, complaint));
  }
  reader.fingerprint.add((*chain)->bytes);
  reader.fingerprint.add((*key)->bytes);
  auto svid = parse_svid((*chain)->bytes, (*key)->bytes);
  if (!svid) {
    return error(fmt::format("the SVID {} with the key {} is not usable: {}; issue both anew",
                             paths.svid, paths.key, svid.error().message));
  }
  if (auto good = check_svid(*svid, paths, std::time(nullptr)); !good) {
    return tl::unexpected(good.error());
  }
  return std::move(*svid);
}

// Each list goes to the bundles with an authority that signed it.
tl::expected<void, SourceError> load_crls(const FilePaths &paths, Reader &reader,
                                          BundleSet &bundles) {
  const auto content = reader.read("CRL", paths.crl, kMaxBundleBytes);
  if (!content) return tl::unexpected(content.error());
  reader.fingerprint.add((*content)->bytes);
  auto crls = parse_crls((*content)->bytes);
  if (!crls) {
    return error(
        fmt::format("the CRL {} is not usable: {}; fetch it anew", paths.crl, crls.error()));
  }
  for (const Crl &crl : *crls) {
    if (!add_crl(crl, bundles, paths.accept_stale_crls)) {
      return error(
          fmt::format("the CRL {} of {} is signed by no authority of a bundle here; leave it "
                      "out, or add the authority",
                      paths.crl, crl.issuer));
    }
  }
  return {};
}

tl::expected<Loaded, SourceError> load_from(Reader &reader, const FilePaths &paths) {
  auto svid = load_svid(paths, reader);
  if (!svid) return tl::unexpected(svid.error());

  BundleSet bundles;
  auto own = load_bundle(paths.trust_domain, paths.bundle, reader);
  if (!own) return tl::unexpected(own.error());
  bundles.emplace(paths.trust_domain, std::move(*own));
  for (const auto &[trust_domain, path] : paths.further_bundles) {
    auto further = load_bundle(trust_domain, path, reader);
    if (!further) return tl::unexpected(further.error());
    if (!bundles.emplace(trust_domain, std::move(*further)).second) {
      return error(fmt::format("the trust domain {} has two bundles, {} and {}; remove one",
                               trust_domain, paths.bundle, path));
    }
  }
  if (!paths.crl.empty()) {
    auto good = load_crls(paths, reader, bundles);
    if (!good) return tl::unexpected(good.error());
  }
  Loaded loaded{Material{std::move(*svid), std::move(bundles), 1}, {}};
  if (!reader.fingerprint.finish(loaded.digest)) return error("out of memory");
  return loaded;
}

tl::expected<Loaded, SourceError> load(const FilePaths &paths, const Memory *memory = nullptr) {
  const MemoryWatch watch;
  Reader reader(memory);
  auto loaded = load_from(reader, paths);
  if (watch.ran_out()) throw std::bad_alloc();
  // What is remembered may be old by now: the reason is that nothing newer could be read.
  if (!loaded && !reader.first_error().empty()) return error(reader.first_error());
  return loaded;
}

using Stamps = std::vector<FileStamp>;

Stamps look(const FilePaths &paths) {
  Stamps stamps{FileStamp::of(paths.svid), FileStamp::of(paths.key), FileStamp::of(paths.bundle)};
  if (!paths.crl.empty()) stamps.push_back(FileStamp::of(paths.crl));
  for (const auto &[trust_domain, path] : paths.further_bundles) {
    stamps.push_back(FileStamp::of(path));
  }
  return stamps;
}

bool any_recent(const Stamps &stamps) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  for (const FileStamp &stamp : stamps) {
    if (stamp.recent(now)) return true;
  }
  return false;
}

}  // namespace

tl::expected<Material, SourceError> load_files(const FilePaths &paths) {
  const ErrorMark mark;
  try {
    // Twice when the first try may have met a set half-swapped.
    const Stamps before = look(paths);
    auto loaded = load(paths);
    if (!loaded && look(paths) != before) loaded = load(paths);
    if (!loaded) return tl::unexpected(loaded.error());
    return std::move(loaded->material);
  } catch (const std::bad_alloc &) {
    return tl::unexpected(SourceError{"out of memory"});
  }
}

struct FileSource::State {
  FilePaths paths;

  // Of the caller of refresh().
  Stamps stamps;
  bool settled = false;  // the stamps can be relied on to differ after another change
  bool loaded_once = false;
  Digest digest{};
  std::uint64_t generation = 0;
  std::string last_error;
  Memory memory;  // empty once a set was good

  mutable std::mutex mutex;
  std::shared_ptr<const Material> current;  // under the mutex
};

FileSource::FileSource(FilePaths paths) : state_(std::make_unique<State>()) {
  state_->paths = std::move(paths);
}

FileSource::~FileSource() = default;

void FileSource::remember() {
  State &state = *state_;
  auto keep = [&state](const std::string &path, std::size_t limit) {
    auto content = read_file(path, limit);
    if (!content) return;
    std::string complaint = key_permission_complaint(content->status);
    state.memory.try_emplace(path, Remembered{std::move(*content), std::move(complaint)});
  };
  try {
    keep(state.paths.svid, kMaxSvidBytes);
    keep(state.paths.key, kMaxKeyBytes);
    keep(state.paths.bundle, kMaxBundleBytes);
    for (const auto &[trust_domain, path] : state.paths.further_bundles) {
      keep(path, kMaxBundleBytes);
    }
  } catch (const std::bad_alloc &) {
    state.memory.clear();
  }
}

bool FileSource::refresh() {
  State &state = *state_;
  const ErrorMark mark;
  try {
    Stamps stamps = look(state.paths);
    if (stamps == state.stamps && state.settled && state.last_error.empty()) return false;

    tl::expected<Loaded, SourceError> loaded = load(state.paths, &state.memory);
    Stamps after = look(state.paths);
    for (int attempt = 1; after != stamps && attempt < kLoadAttempts; ++attempt) {
      stamps = std::move(after);
      loaded = load(state.paths, &state.memory);
      after = look(state.paths);
    }
    state.settled = after == stamps && !any_recent(stamps);
    state.stamps = std::move(stamps);
    if (!loaded) {
      state.last_error = std::move(loaded.error().message);
      return false;
    }
    state.last_error.clear();
    state.memory.clear();
    if (state.loaded_once && loaded->digest == state.digest) return false;
    loaded->material.generation = state.generation + 1;
    auto material = std::make_shared<const Material>(std::move(loaded->material));
    state.digest = loaded->digest;
    state.loaded_once = true;
    ++state.generation;
    const std::lock_guard lock(state.mutex);
    state.current.swap(material);  // the old set is freed after the lock, by `material`
    return true;
  } catch (const std::bad_alloc &) {
    state.last_error = "out of memory";
    return false;
  }
}

std::shared_ptr<const Material> FileSource::current() const {
  const std::lock_guard lock(state_->mutex);
  return state_->current;
}

const std::string &FileSource::last_error() const { return state_->last_error; }

}  // namespace inlay::identity
