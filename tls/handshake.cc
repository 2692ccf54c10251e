#include "tls/handshake.h"

#include <openssl/err.h>

#include <algorithm>
#include <array>
#include <new>
#include <utility>

#include "identity/memory.h"
#include "tls/credentials_state.h"
#include "tls/fiber.h"
#include "tls/handshake_context.h"
#include "tls/simultaneous.h"

namespace inlay::tls {
namespace {

// All a peer may send before its handshake is over: its largest certificate message and ample room
// for the rest. Bounds what it can make OpenSSL work on.
constexpr std::size_t kMaxHandshakeBytes = 128 * 1024;

// Enough of a first record to tell TLS from any other protocol (§5.1: a handshake record, or the
// alert of a peer that refuses at once).
bool may_be_tls(std::span<const std::uint8_t> bytes) noexcept {
  if (!bytes.empty() && bytes[0] != static_cast<std::uint8_t>(ContentType::handshake) &&
      bytes[0] != static_cast<std::uint8_t>(ContentType::alert))
    return false;
  return bytes.size() < 2 || bytes[1] == 3;
}

Suite suite_of(const SSL *ssl) noexcept {
  const SSL_CIPHER *cipher = SSL_get_current_cipher(ssl);
  if (cipher == nullptr) return Suite::none;
  switch (const auto suite = static_cast<Suite>(SSL_CIPHER_get_protocol_id(cipher))) {
    case Suite::aes_128_gcm_sha256:
    case Suite::aes_256_gcm_sha384:
    case Suite::chacha20_poly1305_sha256:
      return suite;
    default:
      return Suite::none;
  }
}

// Seals an alert as the first record under `secret`. Nothing is appended when OpenSSL fails.
void append_first_alert(Suite suite, const Secret &secret, Alert alert,
                        std::vector<std::uint8_t> &output) {
  TrafficState state;
  if (!derive(state, suite, secret.view())) return;
  const auto cipher = RecordCipher::make(state, true);
  OPENSSL_cleanse(&state, sizeof state);
  auto message = encode(alert);
  std::array<std::uint8_t, message.size() + kRecordOverhead> record;
  const iovec parts[] = {{message.data(), message.size()}};
  if (cipher != nullptr &&
      cipher->seal(0, ContentType::alert, parts, 0, message.size(), record.data()) != 0)
    output.insert(output.end(), record.begin(), record.end());
}

}  // namespace

struct Handshake::State final : Signatory {
  std::shared_ptr<const Credentials> credentials;  // keeps the SSL_CTX and the material alive
  HandshakeContext context;
  identity::SslPtr ssl;
  BIO *input = nullptr;   // owned by ssl
  BIO *output = nullptr;  // owned by ssl
  Progress progress = Progress::need_input;
  bool started = false;
  bool starved = false;   // an allocation of it was refused
  std::size_t taken = 0;  // bytes of the peer, all calls
  std::size_t wanted = kHeaderLength;
  OtherClient other = OtherClient::refused;
  bool met = false;                 // another client, or this one
  std::vector<std::uint8_t> hello;  // our ClientHello, until the peer's first record; see `other`
  std::optional<Established> established;
  HandshakeFailure failure;
  int done = 0;         // what SSL_do_handshake() returned in `fiber`
  bool remote = false;  // the own key is elsewhere: libssl runs in `fiber`
  Fiber fiber;
  SignatureRequest request;                            // while it is suspended
  std::optional<std::vector<std::uint8_t>> signature;  // what it goes on with

  ~State() {
    // libssl's frames hold memory of the heap: they must return.
    while (fiber.suspended()) {
      signature.reset();
      run_libssl();
    }
    if (!established) return;
    OPENSSL_cleanse(&established->send, sizeof established->send);
    OPENSSL_cleanse(&established->receive, sizeof established->receive);
  }

  Progress fail(HandshakeFailure why) {
    failure = std::move(why);
    ssl.reset();
    return progress = Progress::failed;
  }
  Progress fail(HandshakeError error, std::string detail) {
    return fail(HandshakeFailure{error, {}, {}, std::move(detail)});
  }

  Progress advance(std::span<const std::uint8_t> bytes, std::size_t &consumed,
                   std::vector<std::uint8_t> &out);
  template <typename Step>
  Progress attempt(Step go) noexcept {
    const identity::MemoryWatch watch;
    try {
      go();
    } catch (...) {  // bad_alloc
      starved = true;
      progress = Progress::failed;
    }
    starved = starved || watch.ran_out();
    if (progress != Progress::failed) return progress;
    // What else it looks like is OpenSSL's guess. Without words: they might need memory.
    if (starved) failure = HandshakeFailure{HandshakeError::out_of_memory, {}, {}, {}};
    ssl.reset();
    return progress;
  }
  std::optional<std::vector<std::uint8_t>> sign(SignatureRequest asked) noexcept override;
  std::optional<int> run_libssl() noexcept;
  Progress step(std::vector<std::uint8_t> &out);
  Progress refuse_server(std::vector<std::uint8_t> &out);
  Progress finish(std::vector<std::uint8_t> &out);
  bool open_ssl();
  enum class Taken : std::uint8_t { feeds, dropped, over };
  Taken take_first(std::span<const std::uint8_t> record);
  Progress finish_with_itself();
  void drain(std::vector<std::uint8_t> &out);
};

void Handshake::State::drain(std::vector<std::uint8_t> &out) {
  char *data = nullptr;
  const long length = BIO_get_mem_data(output, &data);
  if (length > 0) out.insert(out.end(), data, data + length);
  (void)BIO_reset(output);
}

// On the fiber's stack, below libssl.
std::optional<std::vector<std::uint8_t>> Handshake::State::sign(SignatureRequest asked) noexcept {
  request = std::move(asked);
  fiber.suspend();
  return std::exchange(signature, std::nullopt);
}

// SSL_do_handshake()'s result; empty when it is suspended for a signature, or could not begin.
std::optional<int> Handshake::State::run_libssl() noexcept {
  ERR_clear_error();  // of other handshakes on this thread meanwhile
  if (!remote) return SSL_do_handshake(ssl.get());
  const SigningScope scope(this);
  const auto shake = [](void *self) {
    auto *state = static_cast<State *>(self);
    state->done = SSL_do_handshake(state->ssl.get());
  };
  if (fiber.suspended() ? fiber.resume() : fiber.run(shake, this)) return done;
  return std::nullopt;
}

Handshake::Progress Handshake::State::step(std::vector<std::uint8_t> &out) {
  const std::optional<int> shaken = run_libssl();
  if (!shaken) {
    if (fiber.suspended()) return progress = Progress::need_signature;
    return fail(HandshakeError::out_of_memory, {});
  }
  const int result = SSL_get_error(ssl.get(), *shaken);
  const std::size_t out_before = out.size();
  drain(out);
  if (context.role == Role::client && context.not_authorised) out.resize(out_before);
  if (*shaken == 1) return finish(out);
  if (result == SSL_ERROR_WANT_READ) return Progress::need_input;
  return fail(classify(context, ssl.get(), result));
}

// The client's judge said no. What OpenSSL made since then was an empty Certificate and a Finished,
// and step() dropped them, so the alert is record 0 of the client's handshake keys.
Handshake::Progress Handshake::State::refuse_server(std::vector<std::uint8_t> &out) {
  append_first_alert(suite_of(ssl.get()), context.client_handshake, Alert::access_denied, out);
  return fail(HandshakeError::not_authorised, context.peer->uri());
}

Handshake::Progress Handshake::State::finish(std::vector<std::uint8_t> &out) {
  const bool client = context.role == Role::client;
  const Secret &send = client ? context.client_traffic : context.server_traffic;
  const Secret &receive = client ? context.server_traffic : context.client_traffic;
  const Suite suite = suite_of(ssl.get());
  if (!context.peer) return fail(HandshakeError::internal, "no peer after the handshake");
  if (client && context.not_authorised) return refuse_server(out);
  // Mutual, or not at all: a server that does not ask would not know who this workload is.
  if (client && !context.certificate_requested) {
    append_first_alert(suite, send, Alert::handshake_failure, out);
    return fail(HandshakeError::protocol, "the server did not ask for a client certificate");
  }
  // A server judges here, after the client has proved its key: the client's handshake is over as
  // well, so the refusal is a record of application data's keys.
  if (!client && !ask_judge(context)) {
    append_first_alert(suite, send, Alert::access_denied, out);
    return fail(HandshakeError::not_authorised, context.peer->uri());
  }
  const unsigned char *alpn = nullptr;
  unsigned alpn_length = 0;
  SSL_get0_alpn_selected(ssl.get(), &alpn, &alpn_length);
  established.emplace(Established{{},
                                  {},
                                  std::move(*context.peer),
                                  context.peer_not_after,
                                  context.peer_path,
                                  alpn_length != 0,
                                  context.role});
  if (!derive(established->send, suite, send.view()) ||
      !derive(established->receive, suite, receive.view())) {
    established.reset();
    return fail(HandshakeError::internal, "cannot derive the traffic keys");
  }
  ssl.reset();
  return progress = Progress::finished;
}

// A new SSL object in context.role.
bool Handshake::State::open_ssl() {
  ssl.reset(SSL_new(credentials->state_->context.get()));
  identity::BioPtr from(BIO_new(BIO_s_mem()));
  identity::BioPtr to(BIO_new(BIO_s_mem()));
  if (ssl == nullptr || from == nullptr || to == nullptr) return false;
  input = from.get();
  output = to.get();
  SSL_set_bio(ssl.get(), from.release(), to.release());
  if (SSL_set_app_data(ssl.get(), &context) != 1) return false;
  if (context.role == Role::client)
    SSL_set_connect_state(ssl.get());
  else
    SSL_set_accept_state(ssl.get());
  return true;
}

// The peer's first record, where it may be a ClientHello.
Handshake::State::Taken Handshake::State::take_first(std::span<const std::uint8_t> record) {
  const Meeting meeting = meet(hello, record);
  if (meeting == Meeting::none) return Taken::feeds;
  if (other == OtherClient::itself) {
    if (!std::ranges::equal(hello, record))
      fail(HandshakeError::protocol, "another ClientHello on a socket connected to itself");
    else
      finish_with_itself();
    return Taken::over;
  }
  if (meeting == Meeting::mirrored) {  // T43
    fail(HandshakeError::protocol, "the peer sends our own ClientHello back");
    return Taken::over;
  }
  met = true;
  if (meeting == Meeting::as_client) return Taken::dropped;
  context.role = Role::server;
  if (open_ssl()) return Taken::feeds;
  fail(HandshakeError::out_of_memory, {});
  return Taken::over;
}

// Our own ClientHello came back on a socket that is both ends. There is nobody to prove anything to
// and none of it was proved: what protects the connection is a key that never leaves this session,
// so that the only peer there can be is whoever gives back what it was sent. Who that is, is our
// own SPIFFE ID, judged like any other.
Handshake::Progress Handshake::State::finish_with_itself() {
  met = true;
  const identity::X509Svid &own = context.material->svid;
  const identity::X509StackPtr chain(sk_X509_new_null());
  for (const auto &certificate : own.chain)
    if (chain == nullptr ||
        X509_add_cert(chain.get(), certificate.get(), X509_ADD_FLAG_UP_REF) != 1)
      return fail(HandshakeError::out_of_memory, {});
  auto peer = identity::verify_x509_svid(chain.get(), context.material->bundles, std::time(nullptr),
                                         &context.peer_path);
  if (!peer) return fail(HandshakeFailure{HandshakeError::certificate, {}, peer.error(), {}});
  context.peer = std::move(*peer);
  if (!ask_judge(context)) return fail(HandshakeError::not_authorised, context.peer->uri());
  established.emplace(Established{
      {}, {}, std::move(*context.peer), own.not_after, context.peer_path, true, context.role});
  if (!make_own_keys(established->send, established->receive)) {
    established.reset();
    return fail(HandshakeError::internal, "cannot make keys");
  }
  ssl.reset();
  return progress = Progress::finished;
}

Handshake::Progress Handshake::State::advance(std::span<const std::uint8_t> bytes,
                                              std::size_t &consumed,
                                              std::vector<std::uint8_t> &out) {
  if (!started) {
    started = true;
    const std::size_t out_before = out.size();
    if (context.role == Role::client && step(out) != Progress::need_input) return progress;
    if (other != OtherClient::refused)
      hello.assign(out.begin() + static_cast<std::ptrdiff_t>(out_before), out.end());
  }
  for (;;) {
    const std::span<const std::uint8_t> rest = bytes.subspan(consumed);
    wanted = kHeaderLength;
    if (taken == 0 && !may_be_tls(rest))
      return fail(HandshakeError::not_tls, "the first bytes are no TLS record");
    const auto header = parse_header(rest);
    if (!header && header.error() == RecordError::incomplete) return Progress::need_input;
    // A header that no record may have goes to OpenSSL all the same: it knows the alert to send.
    const std::size_t length = kHeaderLength + (header ? header->length : 0);
    if (taken + length > kMaxHandshakeBytes)
      return fail(HandshakeError::protocol, "the handshake is longer than any good one");
    wanted = length;
    if (rest.size() < length) return Progress::need_input;
    if (!hello.empty()) {
      const Taken first = take_first(rest.first(length));
      hello.clear();
      if (first != Taken::feeds) {
        consumed += length;
        taken += length;
      }
      if (first == Taken::over) return progress;
      if (first == Taken::dropped) continue;
    }
    if (BIO_write(input, rest.data(), static_cast<int>(length)) != static_cast<int>(length))
      return fail(HandshakeError::out_of_memory, {});
    consumed += length;
    taken += length;
    if (step(out) != Progress::need_input) return progress;
    if (!header) {
      const bool overflow = header.error() == RecordError::overflow;
      return fail(overflow ? HandshakeError::record_overflow : HandshakeError::protocol,
                  "a record header that TLS does not allow");
    }
  }
}

Handshake::Handshake(std::unique_ptr<State> state) : state_(std::move(state)) {}
Handshake::~Handshake() = default;

std::unique_ptr<Handshake> Handshake::start(std::shared_ptr<const Credentials> credentials,
                                            Role role, Judge judge, OtherClient other) try {
  if (credentials == nullptr) return nullptr;
  auto state = std::make_unique<State>();
  state->context.material = &credentials->material();
  state->context.verified = &credentials->state_->verified;
  state->context.role = role;
  state->context.judge = std::move(judge);
  state->remote = is_remote_key(credentials->material().svid.key.get());
  state->credentials = std::move(credentials);
  if (!state->open_ssl()) return nullptr;
  if (role == Role::client) state->other = other;
  if (state->context.material->svid.not_after <= std::time(nullptr))
    state->fail(HandshakeError::own_svid_expired, state->context.material->svid.id.uri());
  return std::unique_ptr<Handshake>(new Handshake(std::move(state)));
} catch (...) {
  return nullptr;
}

Handshake::Progress Handshake::advance(std::span<const std::uint8_t> input, std::size_t &consumed,
                                       std::vector<std::uint8_t> &output) {
  consumed = 0;
  if (state_->progress != Progress::need_input) return state_->progress;
  return state_->attempt([&] { return state_->advance(input, consumed, output); });
}

const SignatureRequest &Handshake::signature_request() const noexcept { return state_->request; }

Handshake::Progress Handshake::supply_signature(std::vector<std::uint8_t> signature,
                                                std::string why,
                                                std::vector<std::uint8_t> &output) {
  if (state_->progress != Progress::need_signature) return state_->progress;
  state_->progress = Progress::need_input;
  if (signature.empty()) {
    state_->context.no_signature = std::move(why);
  } else {
    state_->signature = std::move(signature);
  }
  return state_->attempt([&] { return state_->step(output); });
}

bool Handshake::met_client() const noexcept { return state_->met; }

std::size_t Handshake::bytes_wanted() const noexcept { return state_->wanted; }

Established Handshake::take_established() {
  Established established = std::move(*state_->established);
  OPENSSL_cleanse(&state_->established->send, sizeof(TrafficState));
  OPENSSL_cleanse(&state_->established->receive, sizeof(TrafficState));
  state_->established.reset();
  return established;
}

const HandshakeFailure &Handshake::failure() const noexcept { return state_->failure; }

}  // namespace inlay::tls
