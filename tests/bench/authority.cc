// Many machines that ask one authority at once, each as its agent would: a connection, a handshake
// and a new key for every SVID.
//
//   bench_authority HOST:PORT --enroll N           N machines come with the token on standard
//   input:
//                                                  how many of them it made one
//   bench_authority HOST:PORT --sign N SPIFFE-ID   a machine for each token on standard input; each
//                                                  obtains N SVIDs. Prints the serial number of
//                                                  everything obtained, then a line of JSON.
//                                                  With an empty line behind the tokens, each
//                                                  further line lets one SVID be asked for, and the
//                                                  end of the input all that are left
//
// An authority that cannot answer now is asked again, as an agent would.
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <mutex>
#include <semaphore>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "identity/agent/authority_link.h"
#include "identity/certificate.h"

namespace {

using namespace inlay::identity;
using agent::AuthorityError;
using agent::AuthorityLink;

constexpr std::chrono::milliseconds kPause{100};

std::atomic<int> asked_again{0};

[[noreturn]] void fail(const std::string &what) {
  std::fprintf(stderr, "bench_authority: %s\n", what.c_str());
  std::_Exit(1);
}

EnrolmentToken token_of(const std::string &line) {
  auto token = parse_enrolment_token(line);
  if (!token) fail(token.error());
  return *token;
}

void print_serial(const X509Svid &svid) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  std::puts(serial_text(svid.chain.front().get()).c_str());
  std::fflush(stdout);
}

// `ask` until it has an answer.
template <typename Ask>
auto obtained(const Ask &ask) {
  for (;;) {
    auto answer = ask();
    if (answer) return std::move(*answer);
    if (answer.error().code == grpc::StatusCode::PERMISSION_DENIED) fail(answer.error().message);
    if (asked_again++ == 0) std::fprintf(stderr, "%s\n", answer.error().message.c_str());
    std::this_thread::sleep_for(kPause);
  }
}

int enroll(const std::string &where, const EnrolmentToken &token, int count) {
  std::atomic<int> good{0};
  {
    std::vector<std::jthread> machines;
    for (int i = 0; i < count; ++i) {
      machines.emplace_back([&] {
        AuthorityLink link;
        const PkeyPtr key = agent::make_node_key();
        for (;;) {
          EVP_PKEY_up_ref(key.get());
          const auto node = link.enroll(where, token, "bench", PkeyPtr(key.get()));
          if (node) ++good;
          if (node || node.error().code == grpc::StatusCode::PERMISSION_DENIED) return;
          std::this_thread::sleep_for(kPause);
        }
      });
    }
  }
  std::printf("%d\n", good.load());
  return 0;
}

int sign(const std::string &where, const std::vector<EnrolmentToken> &tokens, int count,
         const SpiffeId &id, bool is_held) {
  std::vector<agent::Node> nodes;
  AuthorityLink link;
  for (const EnrolmentToken &token : tokens) {
    nodes.push_back(obtained([&] { return link.enroll(where, token, "bench"); }));
    print_serial(nodes.back().svid);
  }
  const int all = static_cast<int>(nodes.size()) * count;
  std::counting_semaphore<> allowed(is_held ? 0 : all);
  const auto begin = std::chrono::steady_clock::now();
  {
    std::vector<std::jthread> machines;
    for (const agent::Node &node : nodes) {
      machines.emplace_back([&] {
        AuthorityLink own;
        for (int i = 0; i < count; ++i) {
          allowed.acquire();
          print_serial(obtained([&] { return own.sign_x509(node, id); }));
        }
      });
    }
    if (is_held) {
      for (std::string line; std::getline(std::cin, line);) allowed.release();
      allowed.release(all);
    }
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  std::printf("{\"svids\": %d, \"seconds\": %.3f, \"asked_again\": %d}\n", all, seconds.count(),
              asked_again.load());
  return 0;
}

}  // namespace

int main(int argc, char **argv) {
  std::signal(SIGPIPE, SIG_IGN);
  const std::string_view what = argc > 3 ? argv[2] : "";
  std::vector<EnrolmentToken> tokens;
  bool is_held = false;
  for (std::string line; !is_held && std::getline(std::cin, line);) {
    is_held = line.empty();
    if (!is_held) tokens.push_back(token_of(line));
  }
  if (what == "--enroll" && argc == 4 && tokens.size() == 1) {
    return enroll(argv[1], tokens[0], std::atoi(argv[3]));
  }
  const auto id = SpiffeId::parse(argc == 5 ? argv[4] : "");
  if (what == "--sign" && id && !tokens.empty())
    return sign(argv[1], tokens, std::atoi(argv[3]), *id, is_held);
  fail(
      "usage: bench_authority HOST:PORT --enroll N | --sign N SPIFFE-ID, tokens on standard input");
}
