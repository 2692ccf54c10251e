#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "policy/log_record.h"
#include "temporary_folder.h"
#include "tools/log_reader.h"
#include "tools/log_text.h"

using namespace inlay;
using namespace inlay::tools;
using policy::LogFile;
using policy::LogRecord;

namespace {

constexpr LogName kName = {1234, 5678};

template <std::size_t Size>
void put(char (&field)[Size], std::string_view text) {
  std::memset(field, 0, Size);
  std::memcpy(field, text.data(), std::min(text.size(), Size));
}

std::unique_ptr<LogFile> empty_log() {
  auto file = std::make_unique<LogFile>();
  file->magic = policy::kLogMagic;
  file->version = policy::kLogVersion;
  file->ring_size = policy::kLogRingSize;
  file->record_size = sizeof(LogRecord);
  file->pid = static_cast<std::uint32_t>(kName.pid);
  file->start_time = kName.start_time;
  put(file->inlay_version, "0.1.0");
  put(file->executable, "/usr/bin/redis-server");
  put(file->own_id, "spiffe://demo.inlay/redis");
  return file;
}

void add(LogFile &file, std::uint64_t number) {
  LogRecord &record = file.ring[number % policy::kLogRingSize];
  record.time_ns = 1'767'323'045'000'000'006 + static_cast<std::int64_t>(number);
  record.reason = policy::Reason::peer_not_allowed;
  record.direction = policy::Direction::inbound;
  record.event = policy::Event::refused;
  for (auto *address : {record.local_address, record.remote_address}) {
    std::memset(address, 0, 16);
    address[10] = address[11] = 0xff;
    address[12] = 127;
    address[15] = 1;
  }
  record.local_port = 6379;
  record.remote_port = 40000;
  record.fd = 7;
  put(record.rule, "redis");
  put(record.peer_id, "spiffe://demo.inlay/intruder");
  put(record.detail, "");
  record.sequence.store(number + 1);
  file.next.store(number + 1);
}

std::string write(const TemporaryFolder &folder, const LogFile &file) {
  return folder.write("1234-5678.log", {reinterpret_cast<const char *>(&file), sizeof(LogFile)},
                      0600);
}

}  // namespace

TEST_CASE("log files are known by their names") {
  CHECK(parse_log_name("12-345.log") == LogName{12, 345});
  for (const char *bad : {"", ".log", "12.log", "-1-2.log", "0-2.log", "12-.log", "12-3.log.old",
                          "a-3.log", "12-3x.log", "99999999999-3.log", "12-3.LOG", "12--3.log"}) {
    CHECK_FALSE(parse_log_name(bad));
  }
}

TEST_CASE("events are read in their order, from a number on") {
  TemporaryFolder folder;
  auto file = empty_log();
  for (std::uint64_t i = 0; i < 5; ++i) add(*file, i);
  auto log = read_log(write(folder, *file), kName, 3);
  REQUIRE(log);
  REQUIRE(log->events.size() == 2);
  CHECK(log->events[0].number == 3);
  CHECK(log->events[1].number == 4);
  CHECK(log->own_id == "spiffe://demo.inlay/redis");
  CHECK(log->overwritten == 0);
}

TEST_CASE("a ring gone round says how many events it lost") {
  TemporaryFolder folder;
  auto file = empty_log();
  for (std::uint64_t i = 0; i < policy::kLogRingSize + 10; ++i) add(*file, i);
  auto log = read_log(write(folder, *file), kName, 0);
  REQUIRE(log);
  CHECK(log->events.size() == policy::kLogRingSize);
  CHECK(log->events.front().number == 10);
  CHECK(log->overwritten == 10);
  CHECK(read_log(write(folder, *file), kName, 10)->overwritten == 0);
}

TEST_CASE("a record being written, or in a place not its own, is dropped") {
  TemporaryFolder folder;
  auto file = empty_log();
  for (std::uint64_t i = 0; i < 3; ++i) add(*file, i);
  file->ring[1].sequence.store(0);
  file->ring[9].sequence.store(3);  // number 2 belongs into slot 2
  auto log = read_log(write(folder, *file), kName, 0);
  REQUIRE(log);
  REQUIRE(log->events.size() == 2);
  CHECK(log->events[0].number == 0);
  CHECK(log->events[1].number == 2);
}

TEST_CASE("no record is torn while its process writes") {
  TemporaryFolder folder;
  auto file = empty_log();
  std::string path = write(folder, *file);
  int fd = ::open(path.c_str(), O_RDWR);
  REQUIRE(fd >= 0);
  std::atomic<bool> stop = false;
  // Writes as libinlay.so does: sequence 0, content, sequence; the content says its number twice.
  std::thread writer([&] {
    auto *map = static_cast<LogFile *>(
        ::mmap(nullptr, sizeof(LogFile), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    for (std::uint64_t number = 0; !stop; ++number) {
      LogRecord &record = map->ring[number % policy::kLogRingSize];
      record.sequence.store(0);
      std::atomic_thread_fence(std::memory_order_seq_cst);
      record.bytes_in = number;
      put(record.detail, std::to_string(number));
      record.sequence.store(number + 1);
      map->next.store(number + 1);
    }
    ::munmap(map, sizeof(LogFile));
  });
  std::size_t read = 0;
  bool whole = true;
  // Until enough has been read of a ring that moved meanwhile, however the threads are scheduled.
  std::uint64_t newest = 0;
  int moves = 0;
  while ((read < 5000 || moves < 50) && whole) {
    auto log = read_log(path, kName, 0);
    if (!log) break;
    if (!log->events.empty() && log->events.back().number != newest) {
      newest = log->events.back().number;
      ++moves;
    }
    for (const LogEvent &event : log->events) {
      whole =
          whole && event.bytes_in == event.number && event.detail == std::to_string(event.number);
      ++read;
    }
  }
  stop = true;
  writer.join();
  ::close(fd);
  CHECK(whole);
  CHECK(read >= 5000);
}

TEST_CASE("files that are no logs are refused, whatever they claim") {
  TemporaryFolder folder;
  auto good = empty_log();
  add(*good, 0);
  auto refuse = [&](auto change) {
    auto file = empty_log();
    change(*file);
    return !read_log(write(folder, *file), kName, 0);
  };
  CHECK(read_log(write(folder, *good), kName, 0));
  CHECK(refuse([](LogFile &file) { file.magic ^= 1; }));
  CHECK(refuse([](LogFile &file) { file.version = policy::kLogVersion + 1; }));
  CHECK(refuse([](LogFile &file) { file.ring_size = UINT32_MAX; }));
  CHECK(refuse([](LogFile &file) { file.record_size = 0; }));
  CHECK(refuse([](LogFile &file) { file.pid = 1; }));
  CHECK(refuse([](LogFile &file) { file.start_time = 1; }));

  std::string bytes(reinterpret_cast<const char *>(good.get()), sizeof(LogFile));
  for (std::size_t size : {std::size_t{0}, std::size_t{8}, sizeof(LogFile) - 1}) {
    CHECK_FALSE(read_log(folder.write("short", bytes.substr(0, size)), kName, 0));
  }
  std::string fifo = folder.path() + "/fifo";
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  CHECK_FALSE(read_log(fifo, kName, 0));
  std::string link = folder.path() + "/link";
  REQUIRE(::symlink(write(folder, *good).c_str(), link.c_str()) == 0);
  CHECK_FALSE(read_log(link, kName, 0));
  CHECK_FALSE(read_log(folder.path(), kName, 0));
}

TEST_CASE("another user's file is not believed to be a living process's log") {
  if (::geteuid() != 0) return;
  TemporaryFolder folder;
  auto start = process_start_time(1);
  REQUIRE(start);
  auto file = empty_log();
  file->pid = 1;
  file->start_time = *start;
  std::string path = write(folder, *file);
  CHECK(read_log(path, {1, *start}, 0));
  REQUIRE(::chown(path.c_str(), 65534, 65534) == 0);
  CHECK_FALSE(read_log(path, {1, *start}, 0));
}

TEST_CASE("strings without an end stay inside their field") {
  TemporaryFolder folder;
  auto file = empty_log();
  add(*file, 0);
  std::memset(file->executable, 'x', sizeof(file->executable));
  std::memset(file->ring[0].rule, 'y', sizeof(file->ring[0].rule));
  auto log = read_log(write(folder, *file), kName, 0);
  REQUIRE(log);
  CHECK(log->executable == std::string(256, 'x'));
  CHECK(log->events[0].rule == std::string(48, 'y'));
}

TEST_CASE("values outside the enums are shown, not trusted") {
  TemporaryFolder folder;
  auto file = empty_log();
  add(*file, 0);
  file->ring[0].reason = static_cast<policy::Reason>(60000);
  file->ring[0].event = static_cast<policy::Event>(200);
  file->ring[0].direction = static_cast<policy::Direction>(200);
  file->ring[0].time_ns = INT64_MIN;
  auto log = read_log(write(folder, *file), kName, 0);
  REQUIRE(log);
  CHECK(human_line(*log, log->events[0]).find("unknown reason (unknown)") != std::string::npos);
  auto json = nlohmann::json::parse(json_line(*log, log->events[0]));
  CHECK(json["event"] == "unknown");
  CHECK(json["direction"] == "unknown");
}

TEST_CASE("a line for a person says who, what, where and why") {
  TemporaryFolder folder;
  ScopedVariable zone("TZ", "UTC");
  auto file = empty_log();
  add(*file, 0);
  auto log = read_log(write(folder, *file), kName, 0);
  REQUIRE(log);
  CHECK(human_line(*log, log->events[0]) ==
        "2026-01-02T03:04:05.000+00:00 redis-server[1234] refused 127.0.0.1:6379 <- "
        "127.0.0.1:40000 spiffe://demo.inlay/intruder rule \"redis\": the peer's SPIFFE ID is not "
        "in the rule's allow list (peer-not-allowed)");
}

TEST_CASE("a hostile name cannot control the terminal of who reads the log") {
  TemporaryFolder folder;
  auto file = empty_log();
  add(*file, 0);
  put(file->ring[0].detail, "\x1b[2J\nfake line \xff");
  auto log = read_log(write(folder, *file), kName, 0);
  REQUIRE(log);
  std::string line = human_line(*log, log->events[0]);
  CHECK(line.find('\x1b') == std::string::npos);
  CHECK(line.find('\n') == std::string::npos);
  std::string json = json_line(*log, log->events[0]);
  CHECK(json.find('\x1b') == std::string::npos);
  CHECK(json.find('\n') == std::string::npos);
  CHECK(nlohmann::json::parse(json)["detail"] == "\x1b[2J\nfake line \xef\xbf\xbd");
}

TEST_CASE("a program is shown by the name it was started by, else by its executable's") {
  TemporaryFolder folder;
  auto file = empty_log();
  put(file->executable, "/usr/bin/redis-check-rdb");  // what Debian's redis-server is a link to
  add(*file, 0);
  add(*file, 1);
  put(file->ring[1].program, "redis-server");
  auto log = read_log(write(folder, *file), kName, 0);
  REQUIRE(log);
  CHECK(human_line(*log, log->events[0]).find(" redis-check-rdb[1234] ") != std::string::npos);
  CHECK(human_line(*log, log->events[1]).find(" redis-server[1234] ") != std::string::npos);
  CHECK(nlohmann::json::parse(json_line(*log, log->events[1]))["program"] == "redis-server");
}

TEST_CASE("a JSON line has the keys scripts rely on, in order") {
  TemporaryFolder folder;
  auto file = empty_log();
  add(*file, 0);
  auto log = read_log(write(folder, *file), kName, 0);
  REQUIRE(log);
  auto json = nlohmann::ordered_json::parse(json_line(*log, log->events[0]));
  std::vector<std::string> keys;
  for (const auto &[key, value] : json.items()) keys.push_back(key);
  CHECK(keys == std::vector<std::string>{"time", "pid", "executable", "program", "event",
                                         "direction", "reason", "rule", "local", "remote", "own_id",
                                         "peer_id", "detail", "fd", "bytes_in", "bytes_out",
                                         "version", "uid"});
  CHECK(json["time"] == "2026-01-02T03:04:05.000000006Z");
  CHECK(json["reason"] == "peer-not-allowed");
  CHECK(json["local"] == "127.0.0.1:6379");
  CHECK(json["fd"] == 7);
}

TEST_CASE("problems are what did not go as it should, not what a rule lets through") {
  using policy::Event;
  for (Event event : {Event::refused, Event::cut, Event::notice}) CHECK(is_problem(event));
  for (Event event : {Event::accepted, Event::closed, Event::plaintext}) {
    CHECK_FALSE(is_problem(event));
  }
}

TEST_CASE("times are right to the nanosecond, before the epoch too") {
  CHECK(rfc3339(0) == "1970-01-01T00:00:00.000000000Z");
  CHECK(rfc3339(-1) == "1969-12-31T23:59:59.999999999Z");
  CHECK(rfc3339(1'767'323'045'000'000'006) == "2026-01-02T03:04:05.000000006Z");
}
