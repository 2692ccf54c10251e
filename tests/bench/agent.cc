// What an agent costs: a signature through it beside one in the process, and many processes that
// hold on to it. Prints lines of JSON.
//
//   bench_agent SOCKET --signatures N     microseconds of N signatures each way
//   bench_agent SOCKET --attach N         N processes attach and wait. Says so, reads a line, and
//   then
//                                         says when the first and the last had a new snapshot
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "identity/agent_client.h"
#include "identity/agent_snapshot.h"
#include "identity/certificate.h"

namespace {

using namespace inlay::identity;
using Clock = std::chrono::steady_clock;

[[noreturn]] void fail(const std::string &what) {
  std::fprintf(stderr, "bench_agent: %s\n", what.c_str());
  std::exit(1);
}

double microseconds(Clock::duration time) {
  return std::chrono::duration<double, std::micro>(time).count();
}

template <typename T>
T good(tl::expected<T, AgentFailure> result) {
  if (!result) fail(result.error().message);
  return std::move(*result);
}

AgentClient connect(const std::string &path) { return good(AgentClient::connect({path})); }

AgentAnswer attach(AgentClient &client) {
  const AttachRequest request;
  return good(
      client.ask(AgentFrame::attach, {reinterpret_cast<const char *>(&request), sizeof request}));
}

std::string leaf_of(const AgentAnswer &answer) {
  struct stat status {};
  if (answer.fd < 0 || fstat(answer.fd, &status) != 0) fail("no snapshot");
  const auto size = static_cast<std::size_t>(status.st_size);
  void *base = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, answer.fd, 0);
  if (base == MAP_FAILED) fail("mmap");
  auto snapshot = parse_agent_snapshot({static_cast<const char *>(base), size});
  if (!snapshot || snapshot->svid.empty()) fail("no SVID in the snapshot");
  return snapshot->svid.front();
}

void print_times(const char *name, std::vector<double> times) {
  std::sort(times.begin(), times.end());
  const auto at = [&](double part) {
    return times[static_cast<std::size_t>(part * static_cast<double>(times.size() - 1))];
  };
  std::printf("{\"what\": \"%s\", \"median_us\": %.2f, \"p10_us\": %.2f, \"p90_us\": %.2f}\n", name,
              at(0.5), at(0.1), at(0.9));
}

// A CertificateVerify of TLS 1.3 (RFC 8446 §4.4.3) over a hash of zeros.
std::string verify_input() {
  return std::string(kSignaturePadding, ' ') + std::string(kServerContext, sizeof kServerContext) +
         std::string(32, '\0');
}

void measure_signatures(const std::string &path, int count) {
  AgentClient client = connect(path);
  const std::string leaf = leaf_of(attach(client));
  const X509Ptr certificate =
      certificate_from_der({reinterpret_cast<const unsigned char *>(leaf.data()), leaf.size()});
  SignRequest request;
  request.key = public_key_digest(certificate.get());
  request.scheme = 0x0403;
  request.hash_length = 32;
  const std::string input = verify_input();
  const std::string bytes =
      std::string(reinterpret_cast<const char *>(&request), sizeof request) + input;
  const PkeyPtr key(EVP_EC_gen("P-256"));
  std::vector<double> through, local;
  for (int i = 0; i < count; ++i) {
    auto begin = Clock::now();
    good(client.ask(AgentFrame::sign, bytes));
    through.push_back(microseconds(Clock::now() - begin));
    begin = Clock::now();
    std::unique_ptr<EVP_MD_CTX, OpensslDelete<EVP_MD_CTX_free>> context(EVP_MD_CTX_new());
    unsigned char signature[128];
    std::size_t length = sizeof signature;
    if (EVP_DigestSignInit(context.get(), nullptr, EVP_sha256(), nullptr, key.get()) != 1 ||
        EVP_DigestSign(context.get(), signature, &length,
                       reinterpret_cast<const unsigned char *>(input.data()), input.size()) != 1) {
      fail("cannot sign");
    }
    local.push_back(microseconds(Clock::now() - begin));
  }
  print_times("through the agent", through);
  print_times("in the process", local);
}

constexpr char kAttached = 'a', kNews = 'n', kFailed = 'f';

void tell(int parent, char what) {
  if (write(parent, &what, 1) != 1) _exit(1);
}

// Tells the parent when it is attached, and of the first news.
[[noreturn]] void hold_on(const std::string &path, int parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const AttachRequest request;
  auto client = AgentClient::connect({path}, std::chrono::minutes(1));
  auto answer = client ? client->ask(AgentFrame::attach,
                                     {reinterpret_cast<const char *>(&request), sizeof request})
                       : tl::unexpected(client.error());
  if (!answer) {
    std::fprintf(stderr, "bench_agent: %s\n", answer.error().message.c_str());
    tell(parent, kFailed);
    _exit(1);
  }
  tell(parent, kAttached);
  pollfd news{client->fd(), POLLIN, 0};
  tell(parent, poll(&news, 1, -1) == 1 ? kNews : kFailed);
  pause();
  _exit(0);
}

Clock::time_point take(int from_children) {
  char byte = kFailed;
  if (read(from_children, &byte, 1) != 1 || byte == kFailed) fail("a process could not go on");
  return Clock::now();
}

void measure_attached(const std::string &path, int count) {
  int ends[2];
  if (pipe(ends) != 0) fail("pipe");
  for (int i = 0; i < count; ++i) {
    const pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) {
      close(ends[0]);
      hold_on(path, ends[1]);
    }
  }
  close(ends[1]);
  for (int i = 0; i < count; ++i) take(ends[0]);
  std::puts("{\"attached\": true}");
  std::fflush(stdout);
  if (std::getchar() == EOF) return;
  const auto begin = Clock::now();
  Clock::time_point first, last;
  for (int i = 0; i < count; ++i) {
    last = take(ends[0]);
    if (i == 0) first = last;
  }
  std::printf("{\"first_ms\": %.2f, \"last_ms\": %.2f}\n", microseconds(first - begin) / 1000,
              microseconds(last - begin) / 1000);
}

}  // namespace

int main(int argc, char **argv) {
  if (argc != 4) fail("usage: bench_agent SOCKET --signatures N | --attach N");
  const int count = std::atoi(argv[3]);
  if (std::strcmp(argv[2], "--signatures") == 0) {
    measure_signatures(argv[1], count);
  } else {
    measure_attached(argv[1], count);
  }
  return 0;
}
