//! The engine of a run: chosen once, by the device that the config names.

/// Sets the size of the pool of threads that computes on the CPU, where the config names one.
pub fn set_threads(threads: Option<usize>) {
    if let Some(threads) = threads {
        // A second run in one process finds the pool as the first one made it.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
}

/// Does something generic with the engine of a device: `with_engine!(device, threads, |engine| work(&engine))`, where
/// `engine` is an `Arc` of it and the work gives a `Result`. A build without CUDA has the work for one engine only.
macro_rules! with_engine {
    ($device:expr, $threads:expr, |$engine:ident| $work:expr) => {{
        $crate::model::engine::set_threads($threads);
        match $device {
            $crate::config::DeviceKind::Cpu => {
                let $engine = std::sync::Arc::new(kernels::Cpu::default());
                $work
            }
            #[cfg(feature = "cuda")]
            $crate::config::DeviceKind::Cuda => {
                let $engine = std::sync::Arc::new(kernels::OnDevice::new(kernels::Device::cuda(0)));
                $work
            }
            #[cfg(not(feature = "cuda"))]
            $crate::config::DeviceKind::Cuda => Err(anyhow::anyhow!(
                "run.device = \"cuda\": this binary was built without it; build with --features cuda"
            )),
        }
    }};
}
pub(crate) use with_engine;
