// Boost.Beast as an echo server, one thread: `beast-echo PORT`. As its asynchronous example, and as its
// documentation advises for speed: the read buffer is kept, messages are written whole (no automatic
// fragmentation), TCP_NODELAY is on, Asio is told that there is one thread.

#include <cstdlib>
#include <memory>

#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/websocket.hpp>

namespace beast = boost::beast;
namespace websocket = beast::websocket;
using tcp = boost::asio::ip::tcp;

class Session : public std::enable_shared_from_this<Session> {
    websocket::stream<tcp::socket> socket_;
    beast::flat_buffer buffer_;

   public:
    explicit Session(tcp::socket socket) : socket_(std::move(socket)) {
        socket_.next_layer().set_option(tcp::no_delay(true));
        socket_.auto_fragment(false);
        socket_.read_message_max(16 * 1024 * 1024);
        websocket::permessage_deflate compression;
        compression.server_enable = false;
        socket_.set_option(compression);
    }

    void start() {
        socket_.async_accept([self = shared_from_this()](beast::error_code error) {
            if (!error) self->read();
        });
    }

   private:
    void read() {
        socket_.async_read(buffer_, [self = shared_from_this()](beast::error_code error, std::size_t) {
            if (!error) self->write();
        });
    }

    void write() {
        socket_.text(socket_.got_text());
        socket_.async_write(buffer_.data(), [self = shared_from_this()](beast::error_code error, std::size_t) {
            if (error) return;
            self->buffer_.consume(self->buffer_.size());
            self->read();
        });
    }
};

static void accept(tcp::acceptor &acceptor) {
    acceptor.async_accept([&acceptor](beast::error_code error, tcp::socket socket) {
        if (!error) std::make_shared<Session>(std::move(socket))->start();
        accept(acceptor);
    });
}

int main(int argc, char **argv) {
    auto port = static_cast<unsigned short>(argc > 1 ? std::atoi(argv[1]) : 9001);
    boost::asio::io_context context{1};
    tcp::acceptor acceptor{context, {boost::asio::ip::make_address("127.0.0.1"), port}};
    acceptor.listen(4096);
    accept(acceptor);
    context.run();
}
