// Identity material from files: chain, key and bundles written by others (inlay ca issue,
// cert-manager, spiffe-helper, Kubernetes volumes). Notices files replaced by rename and by
// symlink swap, and keeps the last good set when the new one is broken or half-written.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tl/expected.hpp>

#include "identity/bundle.h"
#include "identity/svid.h"

namespace inlay::identity {

struct FilePaths {
  std::string svid;  // absolute paths
  std::string key;
  std::string bundle;  // of the workload's own trust domain
  std::string trust_domain;
  std::map<std::string, std::string> further_bundles{};  // trust domain -> path
  std::string crl{};                                     // "" = none
  bool accept_stale_crls = false;
};

// Everything a handshake needs, immutable once built.
struct Material {
  X509Svid svid;
  BundleSet bundles;
  std::uint64_t generation = 0;  // grows by one with every change
};

struct SourceError {
  std::string message;  // one line: what, which file, what to do
};

// The key file must be 0600, or 0640 with a group this process is in, and owned by root or the
// effective user; the SVID's trust domain must be paths.trust_domain, and the SVID valid now by the
// machine's clock (60 s of slack before). Once taken, a set is not dropped for its age: I11.
tl::expected<Material, SourceError> load_files(const FilePaths &paths);

class FileSource {
 public:
  explicit FileSource(FilePaths paths);
  ~FileSource();
  FileSource(const FileSource &) = delete;
  FileSource &operator=(const FileSource &) = delete;

  // Reads the files as they are now, unparsed: a process may have another user or root directory
  // before it needs them. What refresh() cannot read is taken from here until a set was good. The
  // permissions that count are those found now. Silent about what cannot be read. Same caller as
  // refresh().
  void remember();

  // Looks at the files (device, inode, size, mtime and ctime of what each path resolves to) and
  // reloads when they differ from the last look. Cheap enough to call once a second: a stat per
  // file. True when current() changed. One caller at a time.
  bool refresh();
  // The last good set; null when none was ever good. Thread-safe.
  std::shared_ptr<const Material> current() const;
  // Why the last refresh did not take the new files; empty when it did. Same caller as refresh().
  const std::string &last_error() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace inlay::identity
