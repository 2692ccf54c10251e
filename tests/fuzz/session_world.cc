#include "session_world.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/stat.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "certificates.h"
#include "input.h"
#include "shim/arena/arena.h"
#include "shim/arena/descriptors.h"
#include "shim/arena/kernel.h"
#include "shim/arena/process.h"
#include "shim/boot/level.h"
#include "shim/boot/state.h"
#include "shim/session/fork.h"
#include "shim/session/helper_state.h"
#include "shim/session/lifetime.h"
#include "shim/session/runtime.h"

namespace inlay::fuzz {
namespace {

using namespace inlay::shim;

constexpr char kProgramId[] = "spiffe://example.org/program";
constexpr char kPeerId[] = "spiffe://example.org/peer";

std::filesystem::path *g_folder = nullptr;
std::shared_ptr<const tls::Credentials> *g_peer = nullptr;

void write_file(const char *name, const std::string &text) {
  const std::filesystem::path path = *g_folder / name;
  std::ofstream(path) << text;
  must(::chmod(path.c_str(), 0600) == 0);
}

void write_configuration() {
  const testing::Identity root = testing::make_authority("example.org");
  const testing::Identity program = testing::issue(root, kProgramId);
  const testing::Identity peer = testing::issue(root, kPeerId);
  write_file("svid.pem", testing::chain_pem(program));
  write_file("key.pem", testing::to_pem(program.key.get()));
  write_file("bundle.pem", testing::to_pem(root.certificate.get()));
  write_file("inlay.toml", R"(trust_domain = "example.org"
identity = { svid = "svid.pem", key = "key.pem", bundle = "bundle.pem" }
defaults = { inbound = "deny", outbound = "deny" }
[[inbound]]
name = "all"
port = "*"
mode = "strict"
allow = ["spiffe://example.org/peer"]
[[outbound]]
name = "all"
to = ["127.0.0.1"]
port = "*"
mode = "strict"
expect = ["spiffe://example.org/peer"]
)");
  auto made = tls::Credentials::make(testing::make_material(
      peer, kPeerId, testing::bundles_of({{"example.org", root.certificate.get()}})));
  must(made.has_value());
  g_peer = new std::shared_ptr<const tls::Credentials>(*made);
}

int raw_socket() {
  return static_cast<int>(kernel::call(SYS_socket, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
}

// A listener of 127.0.0.1 and where it is.
int listen_anywhere(int fd, sockaddr_in &address) {
  address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  must(fd >= 0 && ::bind(fd, reinterpret_cast<sockaddr *>(&address), length) == 0 &&
       ::listen(fd, 16) == 0 &&
       ::getsockname(fd, reinterpret_cast<sockaddr *>(&address), &length) == 0);
  return fd;
}

void wait_readable(int fd) {
  pollfd one{fd, POLLIN, 0};
  must(::poll(&one, 1, 10'000) == 1);
}

// The peer's data must fit whole: what is not taken yet is bounded by the target.
void set_buffers(int fd, bool peer, bool small) {
  const int receive = peer && small ? 2304 : 425984;
  const int send = !peer && small ? 4608 : 212992;
  kernel::set_option(fd, SOL_SOCKET, SO_RCVBUF, &receive, sizeof receive);
  kernel::set_option(fd, SOL_SOCKET, SO_SNDBUF, &send, sizeof send);
}

}  // namespace

void boot_shim() {
  std::signal(SIGPIPE, SIG_IGN);
  std::string name = (std::filesystem::temp_directory_path() / "inlay-fuzz-XXXXXX").string();
  must(::mkdtemp(name.data()) != nullptr);
  g_folder = new std::filesystem::path(name);
  std::atexit([] { std::filesystem::remove_all(*g_folder); });
  write_configuration();
  // As boot.cc does, but for the helper's thread and what concerns other processes.
  must(make_process_page());
  session_begin();
  must(make_descriptor_table());
  const std::string file = *g_folder / "inlay.toml";
  boot::load_policy(
      {.file = file.c_str(), .snapshot = nullptr, .owners = nullptr, .strict = false});
  must(current_policy() != nullptr);
  remember_identity();
  g_helper.parked.store(true);  // no thread
  boot::g_level.store(boot::Level::ready);
}

std::shared_ptr<const tls::Credentials> peer_credentials() { return *g_peer; }

Connection connect_both(bool inbound, bool small_buffers) {
  // One listener for each direction: the one inlay knows is the program's.
  static sockaddr_in program_address, peer_address;
  static const int program_listener =
      listen_anywhere(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), program_address);
  static const int peer_listener = listen_anywhere(raw_socket(), peer_address);
  Connection made;
  sockaddr_in &address = inbound ? program_address : peer_address;
  const int listener = inbound ? program_listener : peer_listener;
  set_buffers(listener, !inbound, small_buffers);
  if (inbound) {
    made.peer = raw_socket();
    set_buffers(made.peer, true, small_buffers);
    kernel::call(SYS_connect, made.peer, kernel::word(&address), sizeof address);
    wait_readable(listener);
    made.program = ::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK);
  } else {
    made.program = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    set_buffers(made.program, false, small_buffers);
    must(::connect(made.program, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0 ||
         errno == EINPROGRESS);
    wait_readable(listener);
    made.peer = static_cast<int>(kernel::call(SYS_accept4, listener, 0, 0, SOCK_NONBLOCK));
    pollfd up{made.program, POLLOUT, 0};
    must(::poll(&up, 1, 10'000) == 1);
  }
  must(made.program >= 0 && made.peer >= 0);
  const int at_once = 1;
  kernel::set_option(made.program, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof at_once);
  made.slot = managed(made.program);
  must(made.slot != nullptr);
  return made;
}

void helper_turn() {
  {
    Locked working(g_helper.work_lock);
    take_inbox();
  }
  resume_tasks();
}

bool helper_is_idle() {
  return g_helper.inbox.load() == nullptr && g_helper.tasks == nullptr && lingering().load() == 0;
}

}  // namespace inlay::fuzz
