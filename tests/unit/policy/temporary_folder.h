// A folder of its own for a test, gone with it.
#pragma once

#include <doctest/doctest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cstdio>
#include <filesystem>
#include <string>

namespace inlay::policy::sample {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = std::filesystem::temp_directory_path() / "inlay-policy-XXXXXX";
    REQUIRE(mkdtemp(name.data()) != nullptr);
    // Resolved: where the way to it goes through links is not the matter of these tests.
    path_ = std::filesystem::canonical(name);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder &) = delete;
  TemporaryFolder &operator=(const TemporaryFolder &) = delete;

  std::string operator/(const std::string &name) const { return path_ + "/" + name; }
  const std::string &path() const { return path_; }

  // Over what is there, in place.
  std::string write(const std::string &name, const std::string &text) const {
    std::string path = *this / name;
    std::FILE *file = std::fopen(path.c_str(), "w");
    REQUIRE(file != nullptr);
    std::fwrite(text.data(), 1, text.size(), file);
    std::fclose(file);
    ::chmod(path.c_str(), 0644);
    return path;
  }
  // As an editor or an installer does it.
  void replace(const std::string &name, const std::string &text) const {
    std::filesystem::rename(write(name + ".new", text), *this / name);
  }

 private:
  std::string path_;
};

}  // namespace inlay::policy::sample
