//! How drivers differ in their treatment and counting of frames. Everything else in this crate is
//! the same for all drivers.

use super::ethtool::Ethtool;

/// The driver of an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Driver {
    name: String,
}

impl Driver {
    /// The driver of the interface with this ifIndex; a driver without a name if that is not known.
    #[must_use]
    pub fn of(index: u32) -> Self {
        let info = Ethtool::of(index).and_then(|ethtool| ethtool.info());
        Self {
            name: info.map_or_else(String::new, |info| info.name),
        }
    }

    /// What the driver does with a frame that the socket refuses.
    #[must_use]
    pub fn refused_frame(&self, in_driver: bool, zero_copy: bool) -> RefusedFrame {
        match self.name.as_str() {
            // veth_xdp_rcv_one: rx_drops. virtio_net: drops in receive_small_xdp and in
            // virtnet_receive_xsk_small.
            "veth" | "virtio_net" if in_driver => RefusedFrame::CountedAgain,
            // *_run_xdp_zc: *_XDP_EXIT on ENOBUFS with need_wakeup leaves the descriptor in place.
            // igb has the same exit but overwrites the descriptor (Linux 7.2).
            "i40e" | "ice" | "ixgbe" if zero_copy => RefusedFrame::OfferedAgain,
            _ => RefusedFrame::Dropped,
        }
    }

    /// Whether the driver counts a frame that the XDP program drops among its own drops.
    #[must_use]
    pub fn counts_sampled_out(&self, in_driver: bool) -> bool {
        // receive_small_xdp, receive_mergeable_xdp, virtnet_receive_xsk_small: drops.
        // veth_xdp_rcv_one: only xdp_drops.
        self.name == "virtio_net" && in_driver
    }

    /// Which frames the driver counts as received packets of the link (`rx_packets` of
    /// `ndo_get_stats64`), with the XDP program in the driver or after it.
    #[must_use]
    pub fn link_count(&self, in_driver: bool) -> LinkCount {
        match self.name.as_str() {
            // After the driver, GRO may have merged frames before the program sees them.
            _ if !in_driver => LinkCount::Unknown,
            // veth_xdp_rcv: stats.xdp_packets. virtnet_receive: stats.packets. *_clean_rx_irq and
            // *_clean_rx_irq_zc: total_rx_packets. ena_clean_rx_irq: rx_stats.cnt. Each counts a
            // frame whatever the program decides, and ndo_get_stats64 sums these counts.
            "veth" | "virtio_net" | "i40e" | "ice" | "ixgbe" | "ixgbevf" | "igb" | "igc"
            | "ena" => LinkCount::EveryFrame,
            // mlx5e_complete_rx_cqe: rq stats.packets, for frames that became socket buffers only;
            // in switchdev mode the port's own count of all frames.
            "mlx5_core" => LinkCount::PassedFrames,
            // bnxt_en counts every frame, but its card reports up to a second late.
            _ => LinkCount::Unknown,
        }
    }

    /// Whether the driver runs the XDP program only on the channels that it had when the program
    /// was attached.
    #[must_use]
    pub fn misses_new_channels(&self, in_driver: bool) -> bool {
        // veth_set_channels sets up new queues, but only veth_enable_xdp gives them the program.
        self.name == "veth" && in_driver
    }

    /// How many octets of a buffer of this size the card fills.
    ///
    /// Cards whose drivers write SRRCTL.BSIZEPKT count in KiB. Such a card splits a longer frame,
    /// and its driver treats the pieces as frames (igb) or drops them (82599).
    #[must_use]
    pub fn filled(&self, buffer_octets: u32) -> u32 {
        match self.name.as_str() {
            "igb" | "igc" | "ixgbe" => buffer_octets / 1024 * 1024,
            _ => buffer_octets,
        }
    }
}

/// What a driver does with a frame that the socket refuses because its ring is full. The socket
/// counts the frame in each case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RefusedFrame {
    /// Drops it without counting it.
    Dropped,
    /// Drops it and counts it among its own drops too.
    CountedAgain,
    /// Keeps it and offers it again until it is accepted: the XDP program and the socket count
    /// every attempt, and no frame is lost.
    OfferedAgain,
}

/// Which frames a driver counts as received packets of the link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LinkCount {
    /// Every frame that the XDP program sees, whatever it decides.
    EveryFrame,
    /// Only frames that the XDP program passes to the host, and those that it does not see.
    PassedFrames,
    /// It is not known, or not exact.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(name: &str) -> Driver {
        Driver {
            name: name.to_owned(),
        }
    }

    #[test]
    fn drivers_that_count_or_keep_refused_frames_are_known() {
        assert_eq!(
            driver("virtio_net").refused_frame(true, true),
            RefusedFrame::CountedAgain
        );
        assert_eq!(
            driver("virtio_net").refused_frame(false, false),
            RefusedFrame::Dropped
        );
        assert_eq!(
            driver("ice").refused_frame(true, true),
            RefusedFrame::OfferedAgain
        );
        assert_eq!(
            driver("ice").refused_frame(true, false),
            RefusedFrame::Dropped
        );
    }

    #[test]
    fn drivers_that_count_frames_dropped_by_the_program_are_known() {
        assert!(driver("virtio_net").counts_sampled_out(true));
        assert!(
            !driver("virtio_net").counts_sampled_out(false)
                && !driver("veth").counts_sampled_out(true)
        );
    }

    #[test]
    fn drivers_whose_links_count_frames_of_the_program_are_known() {
        for (name, in_driver, expected) in [
            ("veth", true, LinkCount::EveryFrame),
            ("veth", false, LinkCount::Unknown),
            ("mlx5_core", true, LinkCount::PassedFrames),
            ("tun", true, LinkCount::Unknown),
        ] {
            assert_eq!(driver(name).link_count(in_driver), expected, "{name}");
        }
    }

    #[test]
    fn cards_that_count_in_kib_fill_less_of_a_buffer() {
        assert_eq!(
            (driver("igb").filled(1792), driver("ice").filled(1792)),
            (1024, 1792)
        );
    }

    #[test]
    fn an_unknown_interface_has_a_driver_without_a_name() {
        assert_eq!(Driver::of(u32::MAX), driver(""));
    }
}
