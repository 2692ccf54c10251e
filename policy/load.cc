#include "policy/load.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <exception>

#include "policy/trusted_file.h"

namespace inlay::policy {
namespace {

std::int64_t nanoseconds(const timespec &time) noexcept {
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

tl::expected<std::string, std::string> read_all(int fd, std::size_t size) {
  if (size > kMaxConfigSize) {
    return tl::unexpected<std::string>("longer than 1 MiB, which no configuration is");
  }
  std::string out(size + 1, '\0');  // one more, to notice a file that grows
  std::size_t have = 0;
  while (have < out.size()) {
    ssize_t count = read(fd, out.data() + have, out.size() - have);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return tl::unexpected(fmt::format("cannot read it: errno {}", errno));
    if (count == 0) break;
    have += static_cast<std::size_t>(count);
  }
  if (have != size) return tl::unexpected<std::string>("changed while it was read: try again");
  out.resize(size);
  return out;
}

}  // namespace

std::string LoadError::text() const {
  if (file.empty()) return message;
  if (line == 0) return fmt::format("{}: {}", file, message);
  return fmt::format("{}:{}:{}: {}", file, line, column, message);
}

std::string absolute_path(std::string file) {
  char folder[PATH_MAX];
  if (file.starts_with('/') || getcwd(folder, sizeof folder) == nullptr || folder[0] != '/') {
    return file;
  }
  return fmt::format("{}/{}", folder[1] == '\0' ? "" : folder, file);
}

Source source_of(std::string file, const struct stat &stat) {
  return {.file = std::move(file),
          .device = stat.st_dev,
          .inode = stat.st_ino,
          .size = static_cast<std::uint64_t>(stat.st_size),
          .modified_ns = nanoseconds(stat.st_mtim),
          .changed_ns = nanoseconds(stat.st_ctim)};
}

tl::expected<ConfigurationText, LoadError> read_configuration(const std::string &file,
                                                              std::span<const uid_t> owners) {
  auto failed = [&](std::string message) {
    return tl::unexpected(LoadError{.file = file, .message = std::move(message)});
  };
  try {
    if (file.empty()) return failed("no file is named");
    std::string path = absolute_path(file);
    if (!path.starts_with('/'))
      return failed("the current folder is gone: use the file's full path");
    auto opened = open_trusted(path, owners);
    if (!opened) return failed(opened.error());
    auto text = read_all(opened->fd.get(), static_cast<std::size_t>(opened->stat.st_size));
    if (!text) return failed(text.error());
    std::size_t slash = path.rfind('/');
    std::string folder = path.substr(0, slash == 0 ? 1 : slash);
    return ConfigurationText{*std::move(text), std::move(path), std::move(folder), opened->stat};
  } catch (const std::exception &) {  // bad_alloc
    return tl::unexpected(LoadError{.file = {}, .message = "out of memory"});
  }
}

tl::expected<Policy, LoadError> load(const std::string &file, std::span<const uid_t> owners) {
  try {
    auto read = read_configuration(file, owners);
    if (!read) return tl::unexpected(std::move(read.error()));
    auto policy = parse(read->text, read->folder, file);
    if (policy) policy->source = source_of(read->path, read->stat);
    return policy;
  } catch (const std::exception &) {  // bad_alloc
    return tl::unexpected(LoadError{.file = {}, .message = "out of memory"});
  }
}

}  // namespace inlay::policy
