// The program's end: its calls, each checked against what Linux TCP would say. What TCP would say
// follows from what of the peer's stream is there: data, then what ends it.
//
// Where inlay differs on purpose: a FIN without close_notify is ECONNRESET, and so is what a peer
// may not send; the session learns of it when it reads so far, so that a call before may still
// succeed. An answer to FIONREAD counts by the records' headers, one more where an incomplete
// record follows.
#pragma once

#include <cstdint>
#include <vector>

#include "session_peer.h"
#include "session_world.h"

namespace inlay::fuzz {

// What the program would find if it read on.
struct Ahead {
  enum class End { none, end, broken, reset, unknown };
  std::size_t data = 0;
  std::size_t by_headers = 0;  // the most FIONREAD may say
  End end = End::none;
};

class Program {
 public:
  Program(const Connection &connection, Peer &peer);
  ~Program();
  Program(const Program &) = delete;
  Program &operator=(const Program &) = delete;

  enum class ReadBy { recv, read, readv, recvmsg };
  enum class WriteBy { send, write, writev, sendmsg };

  bool closed() const { return numbers_.empty(); }
  int number() const { return numbers_.front(); }  // one that names the connection
  bool established() const;
  bool waiting() const;  // accepted, and nothing was done with it
  // What the peer sent has arrived.
  void settle();
  // How much more the peer may send without its waiting for room.
  std::size_t peer_room() const;

  void receive(std::size_t room, ReadBy by, int flags);
  void send(std::size_t length, WriteBy by, int flags);
  void ask_available();
  void ask_readiness();
  void ask_error();
  void set_flag(int level, int name, int value);
  void linger_zero();
  void duplicate();
  void shut(int how);
  void close_one(std::size_t which);

  // Nothing is wrong with the stream as far as the program could know.
  bool healthy();
  // The program asked for an orderly end, and nothing that TCP would answer with a reset was there.
  bool orderly_end() const { return orderly_; }
  bool read_all();  // until there is nothing; false when a call failed

 private:
  Ahead ahead() const;
  void check_received(long got, int error, std::size_t room, int flags, const std::uint8_t *bytes);
  void check_sent(long sent, int error, std::size_t length);
  void consume(std::size_t length);
  void reset_reported();
  // The peer sent more after its close_notify, which the kernel answers with a reset where the
  // program's end was sent, too.
  bool spoken_after_end() const;
  int tcp_state() const;

  Connection connection_;
  Peer &peer_;
  std::vector<int> numbers_;
  std::uint64_t delivered_ = 0;  // bytes of the peer's stream that arrived
  bool fin_delivered_ = false;
  std::uint64_t place_ = 0;  // application bytes read
  std::size_t taken_ = 0;    // of the first event
  int low_water_ = 1;            // SO_RCVLOWAT
  bool reported_ = false;    // ECONNRESET was, which it is once
  bool shut_read_ = false;
  bool shut_write_ = false;
  bool lingers_zero_ = false;
  bool orderly_ = false;
};

}  // namespace inlay::fuzz
