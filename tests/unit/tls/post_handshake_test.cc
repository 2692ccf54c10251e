#include "tls/post_handshake.h"

#include <doctest/doctest.h>

#include <optional>

#include "bytes.h"

using namespace inlay::tls;
using namespace inlay::tls::test;
using Event = PostHandshakeEvent;

namespace {

Bytes message(std::uint8_t type, std::size_t length) {
  Bytes bytes{type, static_cast<std::uint8_t>(length >> 16), static_cast<std::uint8_t>(length >> 8),
              static_cast<std::uint8_t>(length)};
  bytes.resize(4 + length, 0x11);
  return bytes;
}

}  // namespace

TEST_CASE("single records after the handshake") {
  struct Row {
    const char *name;
    Bytes record;
    bool we_are_client;
    Event event;
    std::optional<Alert> alert;
  };
  Bytes two_tickets = message(4, 100);
  append(two_tickets, message(4, 5));
  Bytes ticket_then_update = message(4, 100);
  append(ticket_then_update, hex("18 00 00 01 00"));
  const Row rows[] = {
      {"T33 ticket to a client", message(4, 200), true, Event::need_more, {}},
      {"T33 two tickets", two_tickets, true, Event::need_more, {}},
      {"empty ticket", message(4, 0), true, Event::need_more, {}},
      {"ticket to a server", message(4, 200), false, Event::violation, Alert::unexpected_message},
      {"key update", hex("18 00 00 01 00"), false, Event::key_update, {}},
      {"key update requested", hex("18 00 00 01 01"), true, Event::key_update_requested, {}},
      {"key update after a ticket", ticket_then_update, true, Event::key_update, {}},
      {"key update of another value", hex("18 00 00 01 02"), true, Event::violation,
       Alert::illegal_parameter},
      {"key update not at the record's end", hex("18 00 00 01 00 18"), true, Event::violation,
       Alert::unexpected_message},
      {"empty key update", hex("18 00 00 00"), true, Event::violation, Alert::decode_error},
      {"long key update", hex("18 00 00 02 00 00"), true, Event::violation, Alert::decode_error},
      {"T31 ClientHello", hex("01 00 00 05 03 03 00 00 00"), false, Event::violation,
       Alert::unexpected_message},
      {"T31 HelloRequest", hex("00 00 00 00"), true, Event::violation, Alert::unexpected_message},
      {"T31 ServerHello", hex("02 00 00 05 03 03 00 00 00"), true, Event::violation,
       Alert::unexpected_message},
      {"CertificateRequest", message(13, 20), true, Event::violation, Alert::unexpected_message},
      {"Finished", message(20, 32), true, Event::violation, Alert::unexpected_message},
      {"unknown", message(99, 1), true, Event::violation, Alert::unexpected_message},
      {"ticket longer than its fields", hex("04 ff ff ff 00"), true, Event::violation,
       Alert::decode_error},
      {"empty record", {}, true, Event::violation, Alert::unexpected_message},
  };
  for (const Row &row : rows) {
    CAPTURE(row.name);
    PostHandshake state;
    CHECK(state.consume(row.record, row.we_are_client) == row.event);
    if (row.alert) CHECK(state.alert == *row.alert);
    if (row.event != Event::violation) CHECK_FALSE(state.mid_message());
  }
}

TEST_CASE("messages may span records at every byte") {
  Bytes messages = message(4, 30);
  append(messages, message(4, 7));
  append(messages, key_update_message(true));
  for (std::size_t first = 1; first < messages.size(); ++first) {
    for (std::size_t second = first + 1; second < messages.size(); ++second) {
      PostHandshake state;
      const std::span<const std::uint8_t> all(messages);
      REQUIRE(state.consume(all.first(first), true) == Event::need_more);
      CHECK(state.mid_message() == (first != 34 && first != 45));
      REQUIRE(state.consume(all.subspan(first, second - first), true) == Event::need_more);
      REQUIRE(state.consume(all.subspan(second), true) == Event::key_update_requested);
      CHECK_FALSE(state.mid_message());
    }
  }
}

TEST_CASE("T39 KeyUpdates, tickets and empty records in a row are a flood, data between them not") {
  PostHandshake state;
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 16; ++i) {
      REQUIRE(state.consume(key_update_message(false), true) == Event::key_update);
      REQUIRE(state.empty_seen());
    }
    state.data_seen();
  }
  for (int i = 0; i < 32; ++i)
    REQUIRE(state.consume(key_update_message(true), true) == Event::key_update_requested);
  CHECK(state.consume(key_update_message(true), true) == Event::violation);
  CHECK(state.alert == Alert::unexpected_message);

  PostHandshake tickets;
  for (int i = 0; i < 32; ++i) REQUIRE(tickets.consume(message(4, 9), true) == Event::need_more);
  CHECK(tickets.consume(message(4, 9), true) == Event::violation);

  PostHandshake one_byte_records;
  const Bytes ticket = message(4, 60);
  int accepted = 0;
  while (one_byte_records.consume(std::span(ticket).subspan(static_cast<std::size_t>(accepted), 1),
                                  true) == Event::need_more)
    ++accepted;
  CHECK(accepted == 32);

  PostHandshake empty;
  for (int i = 0; i < 32; ++i) REQUIRE(empty.empty_seen());
  CHECK_FALSE(empty.empty_seen());
}

TEST_CASE("our own KeyUpdate is the five bytes of RFC 8446 §4.6.3") {
  CHECK(Bytes(key_update_message(false).begin(), key_update_message(false).end()) ==
        hex("18 00 00 01 00"));
  CHECK(Bytes(key_update_message(true).begin(), key_update_message(true).end()) ==
        hex("18 00 00 01 01"));
}
