#include "identity/rpc/event_log.h"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "tests/unit/tools/temporary_folder.h"

namespace fs = std::filesystem;
using inlay::identity::rpc::EventField;
using inlay::identity::rpc::EventLog;

namespace {

// As a full disk: the file may not grow beyond `size`.
class FullAt {
 public:
  explicit FullAt(rlim_t size) {
    std::signal(SIGXFSZ, SIG_IGN);
    REQUIRE(getrlimit(RLIMIT_FSIZE, &old_) == 0);
    const rlimit full{size, old_.rlim_max};
    REQUIRE(setrlimit(RLIMIT_FSIZE, &full) == 0);
  }
  ~FullAt() { setrlimit(RLIMIT_FSIZE, &old_); }

 private:
  rlimit old_{};
};

struct Log {
  TemporaryFolder folder;
  std::string file = folder.path() + "/audit.jsonl";
  std::atomic<std::uint64_t> lost = 0;
  EventLog log{"agent", lost};
  Log() { REQUIRE(log.open(file)); }

  void write(std::int64_t number) {
    const EventField fields[] = {{"number", number}};
    log.write("signature", fields);
  }
};

std::vector<nlohmann::json> lines(const std::string &file) {
  std::vector<nlohmann::json> out;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (!line.empty()) out.push_back(nlohmann::json::parse(line));
  }
  return out;
}

std::vector<int> numbers(const std::string &file) {
  std::vector<int> out;
  for (const auto &line : lines(file)) out.push_back(line.at("number"));
  return out;
}

}  // namespace

TEST_CASE("a log that was moved away is made anew, and no line is lost or written twice") {
  Log it;
  it.write(1);
  fs::rename(it.file, it.file + ".1");
  it.write(2);
  it.write(3);
  CHECK(numbers(it.file + ".1") == std::vector{1});
  CHECK(numbers(it.file) == std::vector{2, 3});
  struct stat status {};
  REQUIRE(::stat(it.file.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777 & ~0640u) == 0);
  CHECK(it.lost == 0);
}

TEST_CASE("a log that was removed, or replaced by an empty one, is followed") {
  Log it;
  it.write(1);
  fs::remove(it.file);
  it.write(2);
  CHECK(numbers(it.file) == std::vector{2});
  std::ofstream(it.file + ".new").close();
  fs::rename(it.file + ".new", it.file);
  it.write(3);
  CHECK(numbers(it.file) == std::vector{3});
  CHECK(it.lost == 0);
}

TEST_CASE("a log that is copied and cut to nothing begins at its beginning again") {
  Log it;
  it.write(1);
  fs::copy_file(it.file, it.file + ".1");
  fs::resize_file(it.file, 0);
  it.write(2);
  CHECK(numbers(it.file + ".1") == std::vector{1});
  CHECK(numbers(it.file) == std::vector{2});
  CHECK(fs::file_size(it.file) == fs::file_size(it.file + ".1"));  // no hole before the line
}

TEST_CASE("what stands in a log's place and is none is not written to") {
  Log it;
  it.write(1);
  const std::string others = it.folder.write("others", "");
  fs::rename(it.file, it.file + ".1");
  fs::create_symlink(others, it.file);
  it.write(2);  // to the one that was moved: it has a name still
  CHECK(numbers(it.file + ".1") == std::vector{1, 2});
  CHECK(fs::file_size(others) == 0);
  CHECK(it.lost == 0);
  fs::remove(it.file + ".1");
  it.write(3);  // nobody would find it
  CHECK(it.lost == 1);
  fs::remove(it.file);
  it.write(4);
  REQUIRE(lines(it.file).size() == 2);
  CHECK(lines(it.file).back().at("number") == 4);
}

TEST_CASE("T66 what could not be written is counted, and the next line that can says so") {
  Log it;
  it.write(1);
  {
    FullAt full(fs::file_size(it.file));
    it.write(2);
    it.log.note(EventLog::Level::info, "lost, too");
    CHECK(it.lost == 2);
  }
  it.write(3);
  const auto all = lines(it.file);
  REQUIRE(all.size() == 3);
  CHECK(all[1].at("event") == "agent");
  CHECK(all[1].at("level") == "error");
  CHECK(all[1].at("message") == "2 lines of this log could not be written");
  CHECK(all[2].at("number") == 3);
  CHECK(it.lost == 2);
}

TEST_CASE("a line that was cut off by a full disk does not spoil the one after it") {
  Log it;
  it.write(1);
  {
    FullAt full(fs::file_size(it.file) + 5);
    it.write(2);
  }
  it.write(3);
  std::ifstream in(it.file);
  std::vector<std::string> all;
  for (std::string line; std::getline(in, line);) all.push_back(line);
  REQUIRE(all.size() == 4);
  CHECK(all[1] == R"({"tim)");
  CHECK(nlohmann::json::parse(all[3]).at("number") == 3);
}

TEST_CASE("moved away again and again while many write, it has each line once") {
  Log it;
  constexpr int kWriters = 4;
  constexpr int kLines = 500;
  std::vector<std::thread> writers;
  for (int writer = 0; writer < kWriters; ++writer) {
    writers.emplace_back([&, writer] {
      for (int i = 0; i < kLines; ++i) it.write(writer * kLines + i);
    });
  }
  int files = 0;
  for (int i = 0; i < 20; ++i) {
    std::error_code none;  // no line since the last time
    fs::rename(it.file, it.file + "." + std::to_string(files), none);
    if (!none) ++files;
    std::this_thread::yield();
  }
  for (std::thread &writer : writers) writer.join();
  std::vector<int> all = fs::exists(it.file) ? numbers(it.file) : std::vector<int>();
  for (int i = 0; i < files; ++i) {
    const auto more = numbers(it.file + "." + std::to_string(i));
    all.insert(all.end(), more.begin(), more.end());
  }
  std::sort(all.begin(), all.end());
  REQUIRE(all.size() == kWriters * kLines);
  for (int i = 0; i < kWriters * kLines; ++i) CHECK(all[static_cast<std::size_t>(i)] == i);
  CHECK(it.lost == 0);
}
