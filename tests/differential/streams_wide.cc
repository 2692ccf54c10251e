// Streams of wide characters over a connection: characters of several bytes, in pieces and broken,
// the locale the stream was made wide in, and what may not be mixed.
#include <stdio_ext.h>

#include <clocale>
#include <cwchar>
#include <functional>
#include <iostream>

#include "behaviour.h"

using namespace behaviour;

namespace {

constexpr const char *kText =
    "gr\xc3\xbc\xc3\x9f 42 \xe2\x82\xac \xf0\x9f\x94\x91 word\nsecond line\n";

void receive_all(int listener) { note_rest(take(listener)); }

// A byte at a time: no character may come whole.
void send_in_pieces(int fd, std::string_view text) {
  int yes = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  for (char byte : text) send(fd, &byte, 1, 0);
}

void speak(int listener) {
  int fd = take(listener);
  send_in_pieces(fd, kText);
  send_all(fd, kText);
  shutdown(fd, SHUT_WR);
  note_rest(fd);
}

void say_wide(std::string_view what, const wchar_t *text) {
  std::string codes;
  for (; *text != L'\0'; ++text) codes += std::to_string(static_cast<long>(*text)) + ' ';
  say(what, codes);
}

void use_locale(const char *name) { note("setlocale", std::setlocale(LC_ALL, name) != nullptr); }

void note_half_a_character(
    int fd, const std::function<void()> &between = [] {}) {
  use_locale("C.UTF-8");
  FILE *file = fdopen(fd, "r");
  note("fgetwc", static_cast<long>(std::fgetwc(file)));
  between();
  errno = 0;
  note("fgetwc", static_cast<long>(std::fgetwc(file)));
  note("errno", errno);
  note("ferror", std::ferror(file) != 0);
  note("feof", std::feof(file) != 0);
  note("fclose", std::fclose(file));
}

Scenario writing{"streams/wide-writing", receive_all, [](std::uint16_t port) {
                   use_locale("C.UTF-8");
                   FILE *file = fdopen(dial(port), "w");
                   note("fwide", std::fwide(file, 0));
                   note("fwide", std::fwide(file, 1));
                   note("fwprintf", std::fwprintf(file, L"%d %ls %s \u20ac\n", 7, L"gr\u00fc\u00df",
                                                  "\xf0\x9f\x94\x91"));
                   note("pending", static_cast<long>(__fpending(file)));
                   note("fputwc", static_cast<long>(std::fputwc(L'\u20ac', file)));
                   note("putwc_unlocked", static_cast<long>(putwc_unlocked(L'x', file)));
                   note("fflush", std::fflush(file));
                   note("pending", static_cast<long>(__fpending(file)));
                   std::wstring much(30001, L'\u00fc');
                   note("fputws", std::fputws(much.c_str(), file) >= 0);
                   note("fflush", std::fflush(file));
                   note("setvbuf", std::setvbuf(file, nullptr, _IOLBF, 0));
                   note("fputws", std::fputws(L"line\u20ac\nhalf", file) >= 0);
                   note("setvbuf", std::setvbuf(file, nullptr, _IONBF, 0));
                   note("fputws", std::fputws(L" unbuffered \u20ac", file) >= 0);
                   note("fputwc", static_cast<long>(std::fputwc(0xd800, file)));
                   note("ferror", std::ferror(file) != 0);
                   std::clearerr(file);
                   note("fputws", std::fputws(L" at the end", file) >= 0);
                   note("fileno", fileno(file) >= 0);
                   note("fclose", std::fclose(file));
                 }};

Scenario in_c{"streams/wide-in-the-c-locale", receive_all, [](std::uint16_t port) {
                use_locale("C");
                FILE *file = fdopen(dial(port), "w");
                note("fputws", std::fputws(L"plain ", file) >= 0);
                use_locale("C.UTF-8");  // the stream's stays what it was
                note("fputwc", static_cast<long>(std::fputwc(L'\u00fc', file)));
                note("fflush", std::fflush(file));
                note("ferror", std::ferror(file) != 0);
                note("fclose", std::fclose(file));
              }};

Scenario reading{"streams/wide-reading", speak, [](std::uint16_t port) {
                   use_locale("C.UTF-8");
                   FILE *file = fdopen(dial(port), "r");
                   note("fgetwc", static_cast<long>(std::fgetwc(file)));
                   note("fwide", std::fwide(file, 0));
                   note("ungetwc", static_cast<long>(std::ungetwc(L'G', file)));
                   wchar_t word[32] = L"";
                   int number = 0;
                   note("fwscanf", std::fwscanf(file, L"%31ls %d", word, &number));
                   say_wide("word", word);
                   note("number", number);
                   wchar_t line[64] = L"";
                   note("fgetws", std::fgetws(line, 64, file) != nullptr);
                   say_wide("line", line);
                   note("fgetws", std::fgetws(line, 4, file) != nullptr);
                   say_wide("line", line);
                   long count = 0, sum = 0;
                   for (std::wint_t c; (c = std::fgetwc(file)) != WEOF; ++count)
                     sum += static_cast<long>(c);
                   note("count", count);
                   note("sum", sum);
                   note("feof", std::feof(file) != 0);
                   note("ferror", std::ferror(file) != 0);
                   note("ungetwc", static_cast<long>(std::ungetwc(L'\u20ac', file)));
                   note("feof", std::feof(file) != 0);
                   note("fgetwc", static_cast<long>(std::fgetwc(file)));
                   note("fclose", std::fclose(file));
                 }};

Scenario broken{"streams/wide-not-a-character",
                [](int listener) {
                  int fd = take(listener);
                  send_in_pieces(fd,
                                 "ab\xff"
                                 "cd");
                  shutdown(fd, SHUT_WR);
                  note_rest(fd);
                },
                [](std::uint16_t port) {
                  use_locale("C.UTF-8");
                  FILE *file = fdopen(dial(port), "r");
                  for (int i = 0; i < 4; ++i) {
                    errno = 0;
                    note("fgetwc", static_cast<long>(std::fgetwc(file)));
                    note("errno", errno);
                    note("ferror", std::ferror(file) != 0);
                    note("feof", std::feof(file) != 0);
                  }
                  char rest[16];
                  while (recv(fileno(file), rest, sizeof rest, 0) > 0) {
                  }
                  note("fclose", std::fclose(file));
                }};

// What the C library says of half a character depends on the reads that brought it, so each
// scenario fixes them.
Scenario cut_at_once{"streams/wide-half-a-character-in-one-read",
                     [](int listener) {
                       int fd = take(listener);
                       send_all(fd, "a\xe2\x82");
                       shutdown(fd, SHUT_WR);
                       note_rest(fd);
                     },
                     [](std::uint16_t port) {
                       int fd = dial(port);
                       char all[3];
                       note("recv", recv(fd, all, sizeof all, MSG_PEEK | MSG_WAITALL));
                       note_half_a_character(fd);
                     }};

Scenario cut_by_itself{"streams/wide-half-a-character-in-a-read-of-its-own",
                       [](int listener) {
                         int fd = take(listener);
                         send_all(fd, "a");
                         char answer;
                         note("recv", recv(fd, &answer, 1, 0));
                         send_all(fd, "\xe2\x82");
                         shutdown(fd, SHUT_WR);
                         note_rest(fd);
                       },
                       [](std::uint16_t port) {
                         int fd = dial(port);
                         char half[2];
                         note_half_a_character(fd, [&] {
                           note("send", send(fd, "x", 1, 0));
                           note("recv", recv(fd, half, sizeof half, MSG_PEEK | MSG_WAITALL));
                         });
                       }};

Scenario mixed{"streams/wide-and-bytes-on-one-stream", receive_all, [](std::uint16_t port) {
                 int fd = dial(port);
                 FILE *bytes = fdopen(fd, "w"), *wide = fdopen(dup(fd), "r+");
                 note("fputs", std::fputs("bytes ", bytes) >= 0);
                 note("fwide", std::fwide(bytes, 1));
                 note("fputws", std::fputws(L"wide", bytes));
                 note("fwprintf", std::fwprintf(bytes, L"wide"));
                 note("fputwc", static_cast<long>(std::fputwc(L'w', bytes)));
                 note("fflush", std::fflush(bytes));
                 note("fputws", std::fputws(L"wide ", wide) >= 0);
                 note("fwide", std::fwide(wide, -1));
                 note("fputs", std::fputs("bytes", wide));
                 note("fprintf", std::fprintf(wide, "bytes"));
                 note("fflush", std::fflush(wide));
                 note("write", write(fd, "by write", 8));
                 note("fclose", std::fclose(wide));
                 note("fclose", std::fclose(bytes));
               }};

Scenario seeking{"streams/wide-seeking", receive_all, [](std::uint16_t port) {
                   FILE *file = fdopen(dial(port), "r+");
                   note("fwide", std::fwide(file, 1));
                   note("fseek", std::fseek(file, 0, SEEK_SET));
                   note("ftell", std::ftell(file));
                   std::fpos_t at;
                   note("fgetpos", std::fgetpos(file, &at));
                   note("fputws", std::fputws(L"still writes", file) >= 0);
                   note("fclose", std::fclose(file));
                 }};

Scenario both_ways{"streams/wide-both-ways",
                   [](int listener) {
                     use_locale("C.UTF-8");
                     int fd = take(listener);
                     FILE *in = fdopen(fd, "r"), *out = fdopen(dup(fd), "w");
                     wchar_t line[64];
                     while (std::fgetws(line, 64, in) != nullptr) {
                       std::fwprintf(out, L"\u20ac %ls", line);
                       std::fflush(out);
                     }
                     note("feof", std::feof(in) != 0);
                     note("fclose", std::fclose(out));
                     note("fclose", std::fclose(in));
                   },
                   [](std::uint16_t port) {
                     use_locale("C.UTF-8");
                     FILE *both = fdopen(dial(port), "r+");
                     wchar_t line[64] = L"";
                     for (int i = 0; i < 3; ++i) {
                       note("fwprintf", std::fwprintf(both, L"line \u00fc %d\n", i));
                       note("fflush", std::fflush(both));
                       note("fgetws", std::fgetws(line, 64, both) != nullptr);
                       say_wide("line", line);
                     }
                     note("shutdown", shutdown(fileno(both), SHUT_WR));
                     note("fgetwc", static_cast<long>(std::fgetwc(both)));
                     note("fclose", std::fclose(both));
                   }};

Scenario iostreams{"streams/wcout-and-wcin", speak, [](std::uint16_t port) {
                     use_locale("C.UTF-8");
                     int fd = dial(port);
                     pid_t pid = fork();
                     if (pid == 0) {
                       dup2(fd, 0);
                       dup2(fd, 1);
                       close(fd);
                       std::wstring word;
                       std::wcin >> word;
                       say_wide("word", word.c_str());
                       std::wcout << L"wcout \u20ac " << 12 << L' ' << word << std::endl << L"rest";
                       int words = 0;
                       while (std::wcin >> word) ++words;
                       note("words", words);
                       note("good", std::wcout.good());
                       std::exit(3);  // flushes
                     }
                     int status = -1;
                     waitpid(pid, &status, 0);
                     note("status", status);
                     close(fd);
                   }};

Scenario reopened{"streams/wide-freopen", receive_all, [](std::uint16_t port) {
                    use_locale("C.UTF-8");
                    FILE *file = fdopen(dial(port), "w");
                    note("fputws", std::fputws(L"to the connection \u20ac", file) >= 0);
                    FILE *again = std::freopen("/dev/null", "w", file);
                    note("freopen", again == file);
                    note("fwide", std::fwide(again, 0));
                    note("fputs", std::fputs("x", again) >= 0);
                    note("fclose", std::fclose(again));
                  }};

}  // namespace
