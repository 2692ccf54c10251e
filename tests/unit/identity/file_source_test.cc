#include "identity/file_source.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <thread>

#include "certificates.h"

using namespace inlay;
using namespace inlay::testing;
using identity::FilePaths;
using identity::FileSource;
using identity::load_files;
namespace fs = std::filesystem;

namespace {

constexpr const char *kTrustDomain = "example.org";

const Identity &root() {
  static const Identity authority = make_authority(kTrustDomain);
  return authority;
}

Identity leaf(const std::string &name, const Knobs &knobs = {}) {
  return issue(root(), "spiffe://example.org/" + name, knobs);
}

// A folder that goes away with the test.
class Folder {
 public:
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "inlay-identity-XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~Folder() { fs::remove_all(path_); }
  Folder(const Folder &) = delete;
  Folder &operator=(const Folder &) = delete;
  fs::path operator/(const std::string &name) const { return path_ / name; }

 private:
  fs::path path_;
};

void write_in_place(const fs::path &path, const std::string &text, mode_t mode = 0644) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
  REQUIRE(fd >= 0);
  REQUIRE(write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  REQUIRE(fchmod(fd, mode) == 0);
  close(fd);
}

// As spiffe-helper and `inlay ca issue` do it.
void replace(const fs::path &path, const std::string &text, mode_t mode = 0644) {
  const fs::path temporary = path.string() + ".new";
  write_in_place(temporary, text, mode);
  fs::rename(temporary, path);
}

void write_set(const fs::path &folder, const Identity &identity) {
  fs::create_directories(folder);
  write_in_place(folder / "svid.pem", chain_pem(identity));
  write_in_place(folder / "key.pem", to_pem(identity.key.get()), 0600);
  write_in_place(folder / "bundle.pem", to_pem(root().certificate.get()));
}

FilePaths paths_in(const fs::path &folder) {
  return {folder / "svid.pem", folder / "key.pem", folder / "bundle.pem", kTrustDomain, {}};
}

// Kubernetes: the files are links through ..data, which is swapped for another folder.
void swap_data_link(const fs::path &folder, const std::string &target) {
  const fs::path temporary = folder / "..data_tmp";
  fs::remove(temporary);
  fs::create_directory_symlink(target, temporary);
  fs::rename(temporary, folder / "..data");
}

std::string complaint(const FilePaths &paths) {
  const auto material = load_files(paths);
  if (material) return "";
  CHECK(material.error().message.find('\n') == std::string::npos);
  return material.error().message;
}

bool says(const std::string &message, const std::string &part) {
  if (message.find(part) != std::string::npos) return true;
  MESSAGE(message);
  return false;
}

bool holds_key_of_its_leaf(const identity::Material &material) {
  return X509_check_private_key(material.svid.chain.front().get(), material.svid.key.get()) == 1;
}

}  // namespace

TEST_CASE("a good set of files is loaded, further bundles included") {
  const Folder folder;
  write_set(folder / "", leaf("a"));
  FilePaths paths = paths_in(folder / "");
  write_in_place(folder / "other.json", R"({"keys":[],"spiffe_sequence":3})");
  paths.further_bundles["other.org"] = folder / "other.json";
  const auto material = load_files(paths);
  if (!material) FAIL(material.error().message);
  CHECK(material->svid.id.uri() == "spiffe://example.org/a");
  CHECK(material->bundles.at(kTrustDomain).authorities.size() == 1);
  CHECK(material->bundles.at("other.org").authorities.empty());
  CHECK(material->bundles.at("other.org").sequence == 3);
}

TEST_CASE("a missing or unusable file is named, with what to do") {
  const Folder folder;
  const FilePaths good = paths_in(folder / "");
  write_set(folder / "", leaf("a"));
  for (const char *name : {"svid.pem", "key.pem", "bundle.pem"}) {
    const fs::path path = folder / name;
    fs::rename(path, folder / "aside");
    CHECK(says(complaint(good), path.string() + ": No such file or directory;"));
    fs::create_directory(path);
    CHECK(says(complaint(good), path.string() + ": not a regular file;"));
    fs::remove(path);
    REQUIRE(mkfifo(path.c_str(), 0600) == 0);
    CHECK(says(complaint(good), path.string() + ": not a regular file;"));
    fs::remove(path);
    write_in_place(path, "", 0600);
    CHECK(says(complaint(good), path.string()));
    write_in_place(path, std::string((std::size_t{1} << 22) + 1, 'x'), 0600);
    CHECK(says(complaint(good), "larger than"));
    fs::remove(path);
    fs::rename(folder / "aside", path);
    CHECK(complaint(good) == "");
  }
}

TEST_CASE("an SVID of another trust domain, or one not valid now, is refused") {
  const Folder folder;
  FilePaths paths = paths_in(folder / "");
  write_set(folder / "", leaf("a"));
  paths.trust_domain = "other.org";
  CHECK(says(complaint(paths), "not of the trust domain other.org"));
  paths.trust_domain = kTrustDomain;
  paths.further_bundles[kTrustDomain] = paths.bundle;
  CHECK(says(complaint(paths), "two bundles"));
  paths.further_bundles.clear();

  Knobs expired;
  expired.not_after = now() - 10;
  write_set(folder / "", leaf("a", expired));
  CHECK(says(complaint(paths), "expired at"));
  Knobs early;
  early.not_before = now() + 600;
  write_set(folder / "", leaf("a", early));
  CHECK(says(complaint(paths), "valid from"));
}

TEST_CASE("a key that others may read or write is refused") {
  const Folder folder;
  const FilePaths paths = paths_in(folder / "");
  write_set(folder / "", leaf("a"));
  const fs::path key = folder / "key.pem";
  struct Row {
    mode_t mode;
    bool good;
  };
  REQUIRE(chown(key.c_str(), geteuid(), getegid()) == 0);
  for (const Row &row :
       {Row{0600, true}, Row{0400, true}, Row{0640, true}, Row{0440, true}, Row{0644, false},
        Row{0604, false}, Row{0602, false}, Row{0660, false}, Row{0620, false}, Row{0700, false},
        Row{0601, false}, Row{0666, false}, Row{04600, false}}) {
    CAPTURE(row.mode);
    REQUIRE(chmod(key.c_str(), row.mode) == 0);
    if (row.mode & 0400) CHECK((complaint(paths) == "") == row.good);
  }
  if (geteuid() != 0) return;  // only root can give files away
  const gid_t strange = 54321;
  REQUIRE(chown(key.c_str(), 0, strange) == 0);
  REQUIRE(chmod(key.c_str(), 0640) == 0);
  CHECK(says(complaint(paths), "may be read by group 54321"));
  REQUIRE(chmod(key.c_str(), 0600) == 0);
  CHECK(complaint(paths) == "");
  REQUIRE(chown(key.c_str(), 54321, 0) == 0);
  CHECK(says(complaint(paths), "belongs to uid 54321"));
}

TEST_CASE("nothing is current before the first good refresh, and then it is") {
  const Folder folder;
  FileSource source(paths_in(folder / ""));
  CHECK(source.current() == nullptr);
  CHECK_FALSE(source.refresh());
  CHECK(source.current() == nullptr);
  CHECK(says(source.last_error(), "svid.pem"));
  write_set(folder / "", leaf("a"));
  CHECK(source.refresh());
  CHECK(source.last_error().empty());
  REQUIRE(source.current());
  CHECK(source.current()->generation == 1);
  CHECK_FALSE(source.refresh());
}

TEST_CASE("what was read at start serves when the files cannot be read any more") {
  Folder folder;
  write_set(folder / "set", leaf("early"));
  FileSource source(paths_in(folder / "set"));
  source.remember();
  fs::rename(folder / "set", folder / "gone");
  CHECK(source.refresh());
  REQUIRE(source.current() != nullptr);
  CHECK(source.current()->svid.id.uri() == "spiffe://example.org/early");
  CHECK(source.last_error() == "");

  // Once they can be, they count, and are not forgotten when they go again.
  write_set(folder / "set", leaf("late"));
  CHECK(source.refresh());
  CHECK(source.current()->svid.id.uri() == "spiffe://example.org/late");
  fs::remove_all(folder / "set");
  CHECK_FALSE(source.refresh());
  CHECK(source.last_error().find("cannot read the SVID") == 0);
  CHECK(source.current()->svid.id.uri() == "spiffe://example.org/late");
}

TEST_CASE("of files that can be read the memory is not asked") {
  Folder folder;
  write_set(folder / "set", leaf("early"));
  FileSource source(paths_in(folder / "set"));
  source.remember();
  write_set(folder / "set", leaf("late"));
  CHECK(source.refresh());
  CHECK(source.current()->svid.id.uri() == "spiffe://example.org/late");
}

TEST_CASE("a key that others may read is refused from memory too, and what was not there is missed") {
  Folder folder;
  write_set(folder / "set", leaf("early"));
  REQUIRE(chmod(((folder / "set") / "key.pem").c_str(), 0644) == 0);
  FileSource open_key(paths_in(folder / "set"));
  open_key.remember();
  REQUIRE(chmod(((folder / "set") / "key.pem").c_str(), 0600) == 0);
  fs::remove(folder / "set" / "bundle.pem");
  FileSource without_bundle(paths_in(folder / "set"));
  without_bundle.remember();
  fs::rename(folder / "set", folder / "gone");
  for (FileSource *source : {&open_key, &without_bundle}) {
    CHECK_FALSE(source->refresh());
    CHECK(source->current() == nullptr);
    CHECK(source->last_error().find("cannot read the SVID") == 0);
  }
}

TEST_CASE("files replaced by rename are noticed") {
  const Folder folder;
  write_set(folder / "", leaf("a"));
  FileSource source(paths_in(folder / ""));
  REQUIRE(source.refresh());
  const auto held = source.current();
  const Identity next = leaf("b");
  replace(folder / "key.pem", to_pem(next.key.get()), 0600);
  replace(folder / "svid.pem", chain_pem(next));
  CHECK(source.refresh());
  CHECK(source.current()->svid.id.path() == "/b");
  CHECK(source.current()->generation == 2);
  CHECK(held->svid.id.path() == "/a");  // a handshake in flight keeps what it has
}

TEST_CASE("a symlink swap as Kubernetes does it is noticed") {
  const Folder folder;
  write_set(folder / "..1", leaf("a"));
  write_set(folder / "..2", leaf("b"));
  swap_data_link(folder / "", "..1");
  for (const char *name : {"svid.pem", "key.pem", "bundle.pem"}) {
    fs::create_symlink(fs::path("..data") / name, folder / name);
  }
  FileSource source(paths_in(folder / ""));
  REQUIRE(source.refresh());
  CHECK(source.current()->svid.id.path() == "/a");
  swap_data_link(folder / "", "..2");
  fs::remove_all(folder / "..1");
  CHECK(source.refresh());
  CHECK(source.current()->svid.id.path() == "/b");
}

TEST_CASE("a torn pair keeps the last good set until it is whole") {
  const Folder folder;
  write_set(folder / "", leaf("a"));
  FileSource source(paths_in(folder / ""));
  REQUIRE(source.refresh());
  const Identity next = leaf("b");
  replace(folder / "key.pem", to_pem(next.key.get()), 0600);
  CHECK_FALSE(source.refresh());
  CHECK(source.current()->svid.id.path() == "/a");
  CHECK(says(source.last_error(), "the key does not belong to the certificate"));
  CHECK_FALSE(source.refresh());
  replace(folder / "svid.pem", chain_pem(next));
  CHECK(source.refresh());
  CHECK(source.last_error().empty());
  CHECK(source.current()->svid.id.path() == "/b");
}

TEST_CASE("a broken set keeps the last good one, whatever is broken") {
  const Folder folder;
  write_set(folder / "", leaf("a"));
  FileSource source(paths_in(folder / ""));
  REQUIRE(source.refresh());
  Knobs expired;
  expired.not_after = now() - 10;
  const auto breakages = std::vector<std::function<void()>>{
      [&] { write_in_place(folder / "bundle.pem", "half a bund"); },
      [&] { write_in_place(folder / "svid.pem", ""); },
      [&] { fs::remove(folder / "key.pem"); },
      [&] { fs::permissions(folder / "key.pem", fs::perms(0644)); },
      [&] { write_set(folder / "", leaf("old", expired)); },
      [&] { fs::remove_all(folder / "svid.pem"); },
  };
  const Identity good = leaf("a");
  for (std::size_t i = 0; i < breakages.size(); ++i) {
    CAPTURE(i);
    const auto before = source.current();
    breakages[i]();
    CHECK_FALSE(source.refresh());
    CHECK(source.current() == before);
    CHECK_FALSE(source.last_error().empty());
    write_set(folder / "", good);
    source.refresh();
    CHECK(source.last_error().empty());
  }
}

TEST_CASE("a bundle emptied by SPIFFE JSON is taken: everything is revoked") {
  const Folder folder;
  write_set(folder / "", leaf("a"));
  FileSource source(paths_in(folder / ""));
  REQUIRE(source.refresh());
  replace(folder / "bundle.pem", R"({"keys":[]})");
  CHECK(source.refresh());
  CHECK(source.current()->bundles.at(kTrustDomain).authorities.empty());
}

TEST_CASE("a further bundle's change is noticed") {
  const Folder folder;
  write_set(folder / "", leaf("a"));
  FilePaths paths = paths_in(folder / "");
  paths.further_bundles["other.org"] = folder / "other.json";
  write_in_place(folder / "other.json", R"({"keys":[],"spiffe_sequence":1})");
  FileSource source(paths);
  REQUIRE(source.refresh());
  replace(folder / "other.json", R"({"keys":[],"spiffe_sequence":2})");
  CHECK(source.refresh());
  CHECK(source.current()->bundles.at("other.org").sequence == 2);
}

TEST_CASE("files touched or rewritten with the same bytes are no change") {
  const Folder folder;
  const Identity same = leaf("a");
  write_set(folder / "", same);
  FileSource source(paths_in(folder / ""));
  REQUIRE(source.refresh());
  const auto before = source.current();
  write_set(folder / "", same);
  CHECK_FALSE(source.refresh());
  replace(folder / "svid.pem", chain_pem(same));
  CHECK_FALSE(source.refresh());
  CHECK(source.current() == before);
}

TEST_CASE("a rewrite in place that leaves inode, size and times as they were is still noticed") {
  const Folder folder;
  write_set(folder / "", leaf("a"));
  write_in_place(folder / "bundle.pem", R"({"keys":[],"spiffe_sequence":1})");
  FileSource source(paths_in(folder / ""));
  REQUIRE(source.refresh());
  // Within the file system's clock tick: such a change can only be seen by reading again.
  for (int sequence = 2; sequence < 10; ++sequence) {
    write_in_place(folder / "bundle.pem",
                   R"({"keys":[],"spiffe_sequence":)" + std::to_string(sequence) + "}");
    CHECK(source.refresh());
    CHECK(source.current()->bundles.at(kTrustDomain).sequence ==
          static_cast<std::uint64_t>(sequence));
  }
}

TEST_CASE("swaps under a reader never give a pair that does not match") {
  const Folder folder;
  write_set(folder / "..0", leaf("a"));
  write_set(folder / "..1", leaf("b"));
  swap_data_link(folder / "", "..0");
  for (const char *name : {"svid.pem", "key.pem", "bundle.pem"}) {
    fs::create_symlink(fs::path("..data") / name, folder / name);
  }
  FileSource source(paths_in(folder / ""));
  REQUIRE(source.refresh());
  std::atomic<bool> done = false;
  std::thread writer([&] {
    for (int i = 0; i < 2000; ++i) swap_data_link(folder / "", i % 2 == 0 ? "..1" : "..0");
    swap_data_link(folder / "", "..1");
    done = true;
  });
  std::thread reader([&] {
    while (!done) {
      const auto material = source.current();
      if (!material || !holds_key_of_its_leaf(*material)) std::abort();
    }
  });
  while (!done) source.refresh();
  writer.join();
  reader.join();
  source.refresh();
  CHECK(source.last_error().empty());
  CHECK(source.current()->svid.id.path() == "/b");
}
