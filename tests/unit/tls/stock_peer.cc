#include "stock_peer.h"

#include <openssl/err.h>

#include <algorithm>
#include <stdexcept>

namespace inlay::tls::test {
namespace {

void require(bool ok, const char *what) {
  if (!ok) throw std::runtime_error(what);
}

}  // namespace

const World &world() {
  static const World world;
  return world;
}

std::shared_ptr<const Credentials> World::credentials(const testing::Identity &identity,
                                                      const char *id) const {
  auto made = Credentials::make(testing::make_material(identity, id, bundles()));
  if (!made) throw std::runtime_error(made.error());
  return *made;
}

StockPeer::StockPeer(Role role, const Options &options)
    : context_(SSL_CTX_new_ex(identity::library_context(), nullptr, TLS_method())) {
  require(context_ != nullptr, "SSL_CTX_new_ex");
  if (options.identity != nullptr) {
    require(SSL_CTX_use_PrivateKey(context_.get(), options.identity->key.get()) == 1, "key");
    require(SSL_CTX_use_certificate(context_.get(), options.identity->certificate.get()) == 1,
            "certificate");
    for (const auto &intermediate : options.identity->intermediates)
      require(SSL_CTX_add1_chain_cert(context_.get(), intermediate.get()) == 1, "chain");
  }
  // Takes any certificate: what is tested is what our end does.
  const int mode =
      role == Role::server ? SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT : SSL_VERIFY_NONE;
  SSL_CTX_set_verify(context_.get(), mode, [](int, X509_STORE_CTX *) { return 1; });
  SSL_CTX_set_session_id_context(context_.get(), reinterpret_cast<const unsigned char *>("test"),
                                 4);
  if (options.context) options.context(context_.get());
  ssl_.reset(SSL_new(context_.get()));
  input_ = BIO_new(BIO_s_mem());
  output_ = BIO_new(BIO_s_mem());
  require(ssl_ != nullptr && input_ != nullptr && output_ != nullptr, "SSL_new");
  SSL_set_bio(ssl_.get(), input_, output_);
  if (role == Role::client)
    SSL_set_connect_state(ssl_.get());
  else
    SSL_set_accept_state(ssl_.get());
  if (options.ssl) options.ssl(ssl_.get());
}

void StockPeer::note_error(int result) {
  const int kind = SSL_get_error(ssl_.get(), result);
  if (kind == SSL_ERROR_ZERO_RETURN) closed_ = true;
  if (kind != SSL_ERROR_SSL || !error_.empty()) return;
  const unsigned long code = ERR_peek_error();
  const char *reason = ERR_reason_error_string(code);
  error_ = reason != nullptr ? reason : "unknown";
  if (ERR_GET_REASON(code) >= SSL_AD_REASON_OFFSET)
    alert_ = static_cast<Alert>(ERR_GET_REASON(code) - SSL_AD_REASON_OFFSET);
}

void StockPeer::go_on() {
  if (finished() || !error_.empty()) return;
  ERR_clear_error();
  note_error(SSL_do_handshake(ssl_.get()));
}

void StockPeer::feed(std::span<const std::uint8_t> bytes) {
  if (!bytes.empty()) BIO_write(input_, bytes.data(), static_cast<int>(bytes.size()));
  go_on();
}

Bytes StockPeer::take() {
  char *data = nullptr;
  const long length = BIO_get_mem_data(output_, &data);
  Bytes bytes(data, data + length);
  (void)BIO_reset(output_);
  return bytes;
}

Bytes StockPeer::write(std::string_view characters) {
  ERR_clear_error();
  const int result = SSL_write(ssl_.get(), characters.data(), static_cast<int>(characters.size()));
  require(result == static_cast<int>(characters.size()), "SSL_write");
  return take();
}

std::string StockPeer::read() {
  std::string all;
  char buffer[4096];
  for (;;) {
    ERR_clear_error();
    const int result = SSL_read(ssl_.get(), buffer, sizeof buffer);
    if (result <= 0) {
      note_error(result);
      return all;
    }
    all.append(buffer, static_cast<std::size_t>(result));
  }
}

void OurEnd::feed(std::span<const std::uint8_t> bytes) {
  append(inbox, bytes);
  std::size_t consumed = 0;
  progress = handshake->advance(inbox, consumed, outbox);
  inbox.erase(inbox.begin(), inbox.begin() + static_cast<std::ptrdiff_t>(consumed));
}

namespace {

template <typename A, typename B>
bool carry(A &from, B &to, std::size_t piece) {
  const Bytes bytes = from.take();
  std::span<const std::uint8_t> rest(bytes);
  while (!rest.empty()) {
    const std::size_t length = std::min(piece, rest.size());
    to.feed(rest.first(length));
    rest = rest.subspan(length);
  }
  return !bytes.empty();
}

template <typename A, typename B>
void carry_all(A &first, B &second, std::size_t piece) {
  first.feed({});
  second.feed({});
  for (;;) {
    const bool one = carry(first, second, piece);
    const bool other = carry(second, first, piece);
    if (!one && !other) return;
  }
}

}  // namespace

void converse(OurEnd &ours, StockPeer &peer, std::size_t piece) { carry_all(ours, peer, piece); }
void converse(OurEnd &client, OurEnd &server, std::size_t piece) {
  carry_all(client, server, piece);
}

Session::Session(const Established &established, Role role)
    : we_are_client(role == Role::client),
      send_state(established.send),
      receive_state(established.receive),
      sealer(RecordCipher::make(send_state, true)),
      opener(RecordCipher::make(receive_state, false)) {
  require(sealer != nullptr && opener != nullptr, "RecordCipher::make");
}

Bytes Session::send(ContentType type, std::span<const std::uint8_t> content) {
  return seal(*sealer, send_state.sequence++, type, content);
}

Bytes Session::send_key_update(bool request) {
  const Bytes record = send(ContentType::handshake, key_update_message(request));
  require(update(send_state), "update");
  sealer = RecordCipher::make(send_state, true);
  return record;
}

void Session::feed(std::span<const std::uint8_t> bytes) {
  append(inbox, bytes);
  while (!broken && !violation && !alert) {
    const auto header = parse_header(inbox);
    if (!header) {
      if (header.error() != RecordError::incomplete) broken = header.error();
      return;
    }
    const std::size_t length = kHeaderLength + header->length;
    if (inbox.size() < length) return;
    Bytes plain(header->length);
    const auto opened =
        opener->open(receive_state.sequence++, std::span(inbox).first(length), plain.data());
    inbox.erase(inbox.begin(), inbox.begin() + static_cast<std::ptrdiff_t>(length));
    if (!opened) {
      broken = opened.error();
      return;
    }
    const auto content = std::span<const std::uint8_t>(plain).first(opened->length);
    if (opened->type == ContentType::application_data) {
      data.append(content.begin(), content.end());
      if (!content.empty()) post.data_seen();
      if (content.empty() && !post.empty_seen()) violation = Alert::unexpected_message;
    } else if (opened->type == ContentType::alert) {
      alert = decode(content);
    } else {
      const auto event = post.consume(content, we_are_client);
      if (event == PostHandshakeEvent::need_more) ++tickets_records;
      if (event == PostHandshakeEvent::violation) violation = post.alert;
      if (event == PostHandshakeEvent::key_update ||
          event == PostHandshakeEvent::key_update_requested) {
        ++key_updates;
        require(update(receive_state), "update");
        opener = RecordCipher::make(receive_state, false);
        if (event == PostHandshakeEvent::key_update_requested)
          append(outbox, send_key_update(false));
      }
    }
  }
}

}  // namespace inlay::tls::test
