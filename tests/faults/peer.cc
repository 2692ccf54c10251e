// A TLS peer that behaves as no honest one does, once its handshake is over. Made of tls/, so that
// what it does wrong is exactly what its scenario says.
//
//   faults_peer connect|listen PORT SVID-FOLDER TRUST-DOMAIN SCENARIO
//
// A listener writes its port first. Standard output then gets the plaintext of every record that
// came and authenticated; the last line on standard error says how the stream ended. Status 3: a
// record did not authenticate.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "identity/file_source.h"
#include "tls/handshake.h"
#include "tls/post_handshake.h"
#include "tls/record.h"

namespace {

using namespace inlay;
using tls::ContentType;
using Bytes = std::vector<std::uint8_t>;

constexpr int kFlood = 200;

[[noreturn]] void die(const std::string &why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  std::_Exit(2);
}

class Peer {
 public:
  explicit Peer(int fd) : fd_(fd) {}

  void shake_hands(tls::Role role, const std::string &folder, const std::string &trust_domain) {
    identity::FileSource source(
        {folder + "/svid.pem", folder + "/key.pem", folder + "/bundle.pem", trust_domain, {}});
    source.refresh();
    if (source.current() == nullptr) die(source.last_error());
    auto credentials = tls::Credentials::make(source.current());
    if (!credentials) die(credentials.error());
    auto handshake = tls::Handshake::start(*credentials, role, {});
    Bytes output;
    for (;;) {
      std::size_t consumed = 0;
      auto progress = handshake->advance(input_, consumed, output);
      input_.erase(input_.begin(), input_.begin() + static_cast<std::ptrdiff_t>(consumed));
      write_raw(output);
      output.clear();
      if (progress == tls::Handshake::Progress::failed) die("handshake: " + handshake->failure().detail);
      if (progress == tls::Handshake::Progress::finished) break;
      if (consumed == 0 && !read_more()) die("handshake: the peer went away");
    }
    tls::Established established = handshake->take_established();
    send_ = established.send;
    receive_ = established.receive;
    seal_ = tls::RecordCipher::make(send_, true);
    open_ = tls::RecordCipher::make(receive_, false);
  }

  void write_raw(const Bytes &bytes) {
    for (std::size_t done = 0; done < bytes.size();) {
      ssize_t sent = ::send(fd_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
      if (sent < 0) return;  // the other side had enough: what it says about it is read
      done += static_cast<std::size_t>(sent);
    }
  }

  Bytes sealed(ContentType type, std::string_view text) {
    Bytes record(text.size() + tls::kRecordOverhead);
    iovec part{const_cast<char *>(text.data()), text.size()};
    std::uint64_t sequence = send_.sequence++;
    if (seal_->seal(sequence, type, {&part, 1}, 0, text.size(), record.data()) == 0) die("seal");
    return record;
  }
  void say(ContentType type, std::string_view text) { write_raw(sealed(type, text)); }
  void data(std::string_view text) { say(ContentType::application_data, text); }
  void update_key(bool request) {
    auto message = tls::key_update_message(request);
    say(ContentType::handshake, {reinterpret_cast<const char *>(message.data()), message.size()});
    if (!tls::update(send_)) die("update");
    seal_ = tls::RecordCipher::make(send_, true);
  }
  void close_notify() { say(ContentType::alert, std::string_view("\1\0", 2)); }
  void end() { ::shutdown(fd_, SHUT_WR); }
  void reset() {
    linger hard{1, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    ::close(fd_);
    std::_Exit(0);
  }

  // Authenticates and prints what comes, to the end; true once `enough` bytes came.
  void receive(std::size_t enough = ~std::size_t{0}) {
    std::size_t got = 0;
    Bytes plain(tls::kMaxCiphertext);
    while (got < enough) {
      while (input_.size() < tls::kHeaderLength || input_.size() < length()) {
        if (!read_more()) finish(input_.empty() ? "fin" : "fin inside a record", 0);
      }
      std::size_t record = length();
      auto opened = open_->open(receive_.sequence++, {input_.data(), record}, plain.data());
      if (!opened) finish("a record does not authenticate", 3);
      input_.erase(input_.begin(), input_.begin() + static_cast<std::ptrdiff_t>(record));
      if (opened->type == ContentType::application_data) {
        got += opened->length;
        std::fwrite(plain.data(), 1, opened->length, stdout);
      } else if (opened->type == ContentType::alert) {
        if (plain[1] == 0) finish("close_notify", 0);
        finish("alert " + std::to_string(plain[1]), 0);
      } else {
        key_updates_ += 1;
        if (!tls::update(receive_)) die("update");
        open_ = tls::RecordCipher::make(receive_, false);
      }
    }
  }

  [[noreturn]] void finish(const std::string &how, int status) {
    std::fflush(stdout);
    std::fprintf(stderr, "%d key updates, %s\n", key_updates_, how.c_str());
    std::_Exit(status);
  }

 private:
  std::size_t length() const { return tls::kHeaderLength + input_[3] * 256u + input_[4]; }
  bool read_more() {
    std::uint8_t buffer[65536];
    ssize_t got = ::recv(fd_, buffer, sizeof buffer, 0);
    if (got < 0) finish(errno == ECONNRESET ? "reset" : std::strerror(errno), 0);
    input_.insert(input_.end(), buffer, buffer + got);
    return got > 0;
  }

  int fd_;
  int key_updates_ = 0;
  Bytes input_;
  tls::TrafficState send_;
  tls::TrafficState receive_;
  std::unique_ptr<tls::RecordCipher> seal_, open_;
};

void play(Peer &peer, std::string_view scenario) {
  const Bytes plaintext_record{23, 3, 3, 0, 17, 'I', 'N', ' ', 'T', 'H', 'E', ' ',
                               'C', 'L', 'E', 'A', 'R', ' ', ' ', ' ', ' ', ' '};
  if (scenario == "honest") {
    peer.data("good");
    peer.close_notify();
    peer.end();
  } else if (scenario == "sink") {
    peer.receive();
  } else if (scenario == "oversize") {
    peer.data("good");
    Bytes record{23, 3, 3, 0x41, 0x01};  // one more than §5.2 allows
    record.resize(5 + 0x4101, 'x');
    peer.write_raw(record);
  } else if (scenario == "empty-flood") {
    peer.data("good");
    for (int i = 0; i < kFlood; ++i) peer.data("");
    peer.data("bad");
  } else if (scenario == "alert-flood") {
    peer.data("good");
    for (int i = 0; i < kFlood; ++i) peer.say(ContentType::alert, "\1\x5a");  // user_canceled
    peer.data("bad");
  } else if (scenario == "key-update-flood") {
    peer.data("good");
    for (int i = 0; i < kFlood; ++i) peer.update_key(true);
    peer.data("bad");
  } else if (scenario == "ticket-flood") {
    peer.data("good");
    // NewSessionTicket: lifetime, age_add, an empty nonce, one byte of ticket, no extensions
    for (int i = 0; i < kFlood; ++i) {
      peer.say(ContentType::handshake, std::string_view("\4\0\0\x0e\0\0\0\1\0\0\0\0\0\0\1t\0\0", 18));
    }
    peer.data("bad");
  } else if (scenario == "fragment-flood") {
    peer.data("good");
    // A KeyUpdate that never ends: one byte of its header, records without data.
    for (int i = 0; i < kFlood; ++i) peer.say(ContentType::handshake, std::string_view("\4", 1));
    peer.data("bad");
  } else if (scenario == "another-certificate") {
    peer.data("good");
    // Certificate: an empty context, an empty list
    peer.say(ContentType::handshake, std::string_view("\x0b\0\0\4\0\0\0\0", 8));
    peer.data("bad");
  } else if (scenario == "certificate-request") {
    peer.data("good");
    peer.say(ContentType::handshake, std::string_view("\x0d\0\0\3\0\0\0", 7));
    peer.data("bad");
  } else if (scenario == "key-updates") {
    for (int i = 0; i < kFlood; ++i) {
      peer.update_key(i % 2 == 0);
      peer.data("good");
    }
    peer.close_notify();
    peer.end();
  } else if (scenario == "interrupted-message") {
    peer.data("good");
    peer.say(ContentType::handshake, std::string_view("\x18\0", 2));  // half a KeyUpdate
    peer.data("bad");
  } else if (scenario == "interrupted-by-alert") {
    peer.data("good");
    peer.say(ContentType::handshake, std::string_view("\x18\0", 2));
    peer.close_notify();
    peer.end();
  } else if (scenario == "renegotiation") {
    peer.data("good");
    peer.say(ContentType::handshake, std::string_view("\1\0\0\2\3\3", 6));  // a ClientHello
    peer.data("bad");
  } else if (scenario == "change-cipher-spec") {
    peer.data("good");
    peer.write_raw({20, 3, 3, 0, 1, 1});
    peer.data("bad");
  } else if (scenario == "clear-record") {
    peer.data("good");
    peer.write_raw(plaintext_record);
  } else if (scenario == "clear-text") {
    peer.data("good");
    peer.write_raw({'b', 'a', 'd', ' ', 't', 'e', 'x', 't', '\r', '\n'});
  } else if (scenario == "unknown-type") {
    peer.data("good");
    peer.say(ContentType{99}, "bad");
  } else if (scenario == "empty-handshake") {
    peer.data("good");
    peer.say(ContentType::handshake, "");
    peer.data("bad");
  } else if (scenario == "again") {
    Bytes record = peer.sealed(ContentType::application_data, "good");
    peer.write_raw(record);
    peer.write_raw(record);  // the same record twice
  } else if (scenario == "skipped") {
    peer.data("good");
    peer.sealed(ContentType::application_data, "lost");
    peer.data("bad");
  } else if (scenario == "data-after-close") {
    peer.data("good");
    peer.close_notify();
    peer.data("bad");
    peer.end();
  } else if (scenario == "bare-fin") {
    peer.data("good");
    peer.end();
  } else if (scenario == "fin-inside") {
    peer.data("good");
    Bytes record = peer.sealed(ContentType::application_data, "bad");
    record.resize(record.size() - 1);
    peer.write_raw(record);
    peer.end();
  } else if (scenario == "rst-inside") {
    peer.data("good");
    peer.receive(1);  // what we said has been read by then, or the reset would take it along
    Bytes record = peer.sealed(ContentType::application_data, "bad");
    record.resize(record.size() / 2);
    peer.write_raw(record);
    peer.reset();
  } else if (scenario == "fatal-alert") {
    peer.data("good");
    peer.say(ContentType::alert, "\2\x28");  // handshake_failure
  } else {
    die("no such scenario");
  }
}

}  // namespace

int main(int count, char **words) {
  if (count != 6) die("faults_peer connect|listen PORT SVID-FOLDER TRUST-DOMAIN SCENARIO");
  bool client = std::string_view(words[1]) == "connect";
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(std::atoi(words[2])));
  int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  auto *generic = reinterpret_cast<sockaddr *>(&address);
  socklen_t length = sizeof address;
  if (client) {
    if (::connect(fd, generic, length) != 0) die("connect");
  } else {
    if (::bind(fd, generic, length) != 0 || ::listen(fd, 1) != 0) die("listen");
    ::getsockname(fd, generic, &length);
    std::printf("%d\n", ntohs(address.sin_port));
    std::fflush(stdout);
    fd = ::accept(fd, nullptr, nullptr);
  }
  int at_once = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof at_once);
  if (client) {
    ::getsockname(fd, generic, &length);
    std::fprintf(stderr, "%d\n", ntohs(address.sin_port));
  }
  Peer peer(fd);
  peer.shake_hands(client ? tls::Role::client : tls::Role::server, words[3], words[4]);
  play(peer, words[5]);
  peer.receive();
}
